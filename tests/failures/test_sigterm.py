"""SIGTERM under load: what was accepted is answered, what cannot be finished is handed back, and nobody is let down."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from holdfast_local.chaos_faults import APIS, WORKERS
from holdfast_local.demo_client import OrderSeen
from holdfast_local.ports import LOOPBACK
from holdfast_local.supervisor import Change
from holdfast_local.topology import Overrides
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
    """Clients behind a router, which sends nothing to an API that says it is not ready."""

    stage: Stage
    orders: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Buys without an end, three at once; every request was answered 201 when the block is over."""
        is_ready, stopping = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            router = tasks.create_task(self._watch(is_ready))
            clients = [tasks.create_task(self._buy_until(stopping, is_ready)) for _ in range(3)]
            await is_ready.wait()
            yield
            await is_ready.wait()
            stopping.set()
            await asyncio.wait(clients)
            router.cancel()
        assert self.failed == []
        assert self.orders

    async def _watch(self, is_ready: asyncio.Event) -> None:
        answers = self.stage.platform.supervisor.entries["orders-api"].program.answers
        assert answers is not None
        while True:
            if await answers():
                is_ready.set()
            else:
                is_ready.clear()
            await asyncio.sleep(0.05)

    async def _buy_until(self, stopping: asyncio.Event, is_ready: asyncio.Event) -> None:
        while not stopping.is_set():
            await is_ready.wait()
            try:
                answer = await self.stage.client.place_purchase(self.stage.purchase())
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failed.append(repr(error))
                return
            if answer.status != 201:
                self.failed.append(f"{answer.status} {answer.body.decode()}")
                return
            self.orders.append(OrderSeen.model_validate_json(answer.body).id)
            await asyncio.sleep(0.2)  # all of them have to be paid for and mailed about before the oracle speaks


async def test_every_process_is_told_to_stop_under_load_and_no_request_fails(stage: Stage):
    load = Load(stage)
    async with load.running():
        for program in (*APIS, *WORKERS):
            stage.signal(program, signal.SIGTERM)
            await stage.platform.until_ready(program)
    endings = exit_details(stage)
    assert set(endings) == {*APIS, *WORKERS}
    assert {detail.partition(",")[0] for detail in endings.values()} == {"exit 0"}
    await stage.until_status("confirmed", *load.orders)
    await stage.assert_sound()


async def test_all_processes_are_told_to_stop_at_once_under_load_and_no_request_fails(stage: Stage):
    load = Load(stage)
    async with load.running():
        await stage.buy(3)
        for program in (*APIS, *WORKERS):
            stage.signal(program, signal.SIGTERM)
        for program in (*APIS, *WORKERS):
            await stage.platform.until_ready(program)
    await stage.until_status("confirmed", *load.orders)
    await stage.assert_sound()
