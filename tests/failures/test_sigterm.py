"""SIGTERM under load: what was accepted is answered, what cannot be finished is handed back, and nobody is let down."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from uuid import uuid4

import aiohttp
import orjson
import pytest
from chassis.auth.service_tokens import TokenSource
from chassis.webhooks import sign
from holdfast_local.chaos_faults import APIS, WORKERS
from holdfast_local.demo_client import Answer, Endpoint, OrderSeen
from holdfast_local.ports import LOOPBACK
from holdfast_local.supervisor import Change
from holdfast_local.topology import Overrides
from pydantic import SecretStr
from stage import Stage

OVERRIDES: Overrides = {api: {"shutdown.readiness_delay": 0.5} for api in APIS}
"""For a router that looks every 50 ms; 5 s in a cluster, where routing lags."""


def exit_details(stage: Stage) -> dict[str, str]:
    """How each process that ended did so, as the runner tells it."""
    return {event.program: event.detail for event in stage.events if event.change is Change.CRASHED}


async def test_requests_that_an_api_has_accepted_are_answered_though_it_was_told_to_stop(stage: Stage):
    """All stand in the middle of their transaction when the signal comes."""
    await stage.client.read_catalogue("acme")
    purchases = [stage.purchase() for _ in range(8)]
    async with stage.session("orders") as connection, connection.transaction():
        await connection.execute("LOCK TABLE orders IN SHARE MODE")  # no order can be written meanwhile
        asking = [asyncio.create_task(stage.client.place_purchase(purchase)) for purchase in purchases]
        await stage.until_lock_waiter("orders", "orders-api", number=len(purchases))
        stage.signal("orders-api", signal.SIGTERM)
        await stage.until(lambda: is_refused(stage.platform.installation.settings.port("orders")), what="it is closed")
        assert not any(task.done() for task in asking)
    answers = await asyncio.gather(*asking)
    assert [answer.status for answer in answers] == [201] * len(purchases)
    await stage.platform.until_ready("orders-api")
    assert exit_details(stage)["orders-api"].startswith("exit 0")
    await stage.until_status("confirmed", *(OrderSeen.model_validate_json(answer.body).id for answer in answers))
    await stage.assert_sound()


async def is_refused(port: int) -> bool:
    """Whether a connection is refused; one that is made is closed again."""
    with socket.socket() as probe:
        probe.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(probe, (LOOPBACK, port))
        except ConnectionRefusedError:
            return True
    return False


@pytest.mark.parametrize("worker", ["payments-worker", "notifications-worker"])
async def test_a_worker_hands_back_the_job_it_cannot_finish_and_nobody_waits_for_its_lease(stage: Stage, worker: str):
    service, job = ("payments", "charge_payment") if worker == "payments-worker" else ("notifications", "send_mail")
    await stage.provider(hang=worker == "payments-worker")
    await stage.mailbox(hang=worker == "notifications-worker")
    [order] = await stage.buy()
    [job_id] = await stage.until_job(service, job)
    stage.signal(worker, signal.SIGTERM)

    async def is_handed_back() -> bool:
        query = "SELECT FROM job WHERE id = $1 AND status = 'ready' AND last_error IS NULL AND max_attempts IN (31, 51)"
        return bool(await stage.fetch(service, query, job_id))

    await stage.until(is_handed_back, what="the job is ready again, with an attempt more")
    await stage.provider()
    await stage.mailbox()
    await stage.platform.until_ready(worker)
    await stage.until_status("confirmed", order)
    assert (await stage.metrics(worker)).total("job_leases_expired_total") == 0
    assert exit_details(stage)[worker].startswith("exit 0")
    await stage.assert_sound()


async def test_a_request_that_arrives_after_its_connection_was_accepted_is_answered_though_the_port_is_closed(
    stage: Stage,
):
    """Between a connection and its request the signal comes."""
    port = stage.platform.installation.settings.port("orders")
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    await stage.client.read_catalogue("acme")  # the loop that answered this has accepted the connection, too
    stage.signal("orders-api", signal.SIGTERM)
    await stage.until(lambda: is_refused(port), what="it is closed", every=0.001)
    writer.write(f"GET /v1/products HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
    writer.close()
    await stage.platform.until_ready("orders-api")


@dataclass
class Load:
    """Callers of one API behind a router, which sends nothing to it while it says that it is not ready."""

    stage: Stage
    api: str
    ask: Callable[[], Awaitable[Answer]]
    answered: int = 0
    failed: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Asks without an end, three at once; every request was answered 2xx when the block is over."""
        is_ready, stopping = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            router = tasks.create_task(self._watch(is_ready))
            clients = [tasks.create_task(self._ask_until(stopping, is_ready)) for _ in range(3)]
            await is_ready.wait()
            yield
            await is_ready.wait()
            stopping.set()
            await asyncio.wait(clients)
            router.cancel()
        assert self.failed == []
        assert self.answered

    async def _watch(self, is_ready: asyncio.Event) -> None:
        answers = self.stage.platform.supervisor.entries[self.api].program.answers
        assert answers is not None
        while True:
            if await answers():
                is_ready.set()
            else:
                is_ready.clear()
            await asyncio.sleep(0.05)

    async def _ask_until(self, stopping: asyncio.Event, is_ready: asyncio.Event) -> None:
        while not stopping.is_set():
            await is_ready.wait()
            try:
                answer = await self.ask()
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failed.append(repr(error))
                return
            if answer.status not in range(200, 300):
                self.failed.append(f"{answer.status} {answer.body.decode()}")
                return
            self.answered += 1
            await asyncio.sleep(0.2)  # each order has to be paid for and mailed about before the oracle speaks


@dataclass
class Shoppers:
    """Buys, once for each call."""

    stage: Stage
    orders: list[str] = field(default_factory=list)

    async def __call__(self) -> Answer:
        answer = await self.stage.client.place_purchase(self.stage.purchase())
        if answer.status == HTTPStatus.CREATED:
            self.orders.append(OrderSeen.model_validate_json(answer.body).id)
        return answer


async def test_every_process_is_told_to_stop_under_load_and_no_request_fails(stage: Stage):
    shoppers = Shoppers(stage)
    async with Load(stage, "orders-api", shoppers).running():
        for program in (*APIS, *WORKERS):
            stage.signal(program, signal.SIGTERM)
            await stage.platform.until_ready(program)
    endings = exit_details(stage)
    assert set(endings) == {*APIS, *WORKERS}
    assert {detail.partition(",")[0] for detail in endings.values()} == {"exit 0"}
    await stage.until_status("confirmed", *shoppers.orders)
    await stage.assert_sound()


async def test_all_processes_are_told_to_stop_at_once_under_load_and_no_request_fails(stage: Stage):
    shoppers = Shoppers(stage)
    async with Load(stage, "orders-api", shoppers).running():
        await stage.buy(3)
        for program in (*APIS, *WORKERS):
            stage.signal(program, signal.SIGTERM)
        for program in (*APIS, *WORKERS):
            await stage.platform.until_ready(program)
    await stage.until_status("confirmed", *shoppers.orders)
    await stage.assert_sound()


async def test_the_other_apis_are_told_to_stop_under_load_of_their_own_and_no_request_fails(stage: Stage):
    """Each three times, so that the signal meets requests in other places."""
    [order] = await stage.buy()
    callers = {
        "payments-api": await calls_of_orders(stage, order),
        "notifications-api": await rotations(stage),
        "webhook-ingest-api": webhooks(stage),
    }
    async with AsyncExitStack() as loads:
        for api, ask in callers.items():
            await loads.enter_async_context(Load(stage, api, ask).running())
        for api in (*callers, *callers, *callers):
            stage.signal(api, signal.SIGTERM)
            await stage.platform.until_ready(api)
    assert {detail.partition(",")[0] for detail in exit_details(stage).values()} == {"exit 0"}
    await stage.until_status("confirmed", order)
    await stage.assert_sound()


async def calls_of_orders(stage: Stage, order: str) -> Callable[[], Awaitable[Answer]]:
    """The call by which orders has asked for the payment, again."""
    fields = "payment_id::text, id::text AS order_id, amount, currency, payment_method"
    [asked] = await stage.fetch("orders", f"SELECT {fields} FROM orders WHERE id::text = $1", order)
    secret = SecretStr(stage.platform.installation.secrets.payments_token_secret)
    token = TokenSource(issuer="orders", audience="payments", secret=lambda: secret)
    url = stage.platform.installation.url("payments") + "/v1/payments"
    return lambda: post(stage, url, orjson.dumps(dict(asked)), {"Authorization": token()})


async def rotations(stage: Stage) -> Callable[[], Awaitable[Answer]]:
    """Of the secret of an endpoint to which nothing is sent, each with a key of its own."""
    endpoint = Endpoint.model_validate_json((await stage.client.create_endpoint("globex")).body)
    url = f"{stage.platform.installation.url('notifications')}/v1/webhook-endpoints/{endpoint.id}/rotate-secret"
    return lambda: post(stage, url, b"", stage.client._as("globex") | {"Idempotency-Key": uuid4().hex})


def webhooks(stage: Stage) -> Callable[[], Awaitable[Answer]]:
    """Of a type that nobody handles: each is stored."""
    url = stage.platform.installation.url("webhook_ingest") + "/v1/webhooks/payment-provider"
    body = b'{"type": "customer.created", "data": {}}'

    def send() -> Awaitable[Answer]:
        signed = sign(stage.platform.installation.secrets.webhook_secret, uuid4().hex, int(time.time()), body)
        return post(stage, url, body, signed)

    return send


async def post(stage: Stage, url: str, body: bytes, headers: dict[str, str]) -> Answer:
    headers = {"Content-Type": "application/json"} | headers
    async with stage.client._session.post(url, data=body, headers=headers) as response:
        return await Answer.of(response)
