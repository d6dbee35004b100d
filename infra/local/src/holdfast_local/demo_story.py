"""The demo's steps, in their order. Each tells what it does and raises RunnerError when that goes wrong."""

import asyncio
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus

from holdfast_local.demo_client import Answer, DemoClient, Endpoint, EndpointSeen, ErrorEnvelope, OrderSeen, served
from holdfast_local.demo_degraded import read_without_payments
from holdfast_local.demo_metrics import Metrics
from holdfast_local.demo_payments import WORKER, Payments
from holdfast_local.demo_script import (
    CANCELLED_CONFIRMED,
    CANCELLED_IN_HANG,
    CANCELLED_IN_OUTAGE,
    DELIVERIES,
    FIRST,
    HELD,
    IN_OUTAGE,
    KEPT_AWAY,
    LEAVER,
    MAILS,
    ORDERS,
    ORDINARY,
    REPEATED,
    SUBSCRIBER,
    UNKNOWN_PRODUCT,
    ScriptedOrder,
    name_orders,
    order_body,
    scripted,
)
from holdfast_local.demo_verdict import Told
from holdfast_local.demo_watch import Narrator, OrderWatch, poll
from holdfast_local.errors import RunnerError
from holdfast_local.platform import Platform
from holdfast_local.secrets import CLIENTS, SERVICES

# Limits for a broken platform; nothing waits for them. Each is several times what a busy machine needs.
_STEP_SECONDS = 60.0  # for what takes a second or two on an idle machine
_SETTLE_SECONDS = 120.0  # for what takes a lease of 15 s, or a breaker's 18 s and the back-off of its jobs
_MOST_READS = 2000  # of the catalogue: a burst of 50 is spent long before


class Story:
    def __init__(self, platform: Platform, client: DemoClient, narrator: Narrator) -> None:
        self._platform = platform
        self._client = client
        self._narrator = narrator
        self._watch = OrderWatch(client, narrator)
        self._payments = Payments(platform, client)
        self._metrics = Metrics()
        self._held_jobs: list[int] = []
        self._killed_at = 0.0
        self._lost: EndpointSeen

    async def tell(self) -> Told:
        """All of it, and what came of it."""
        await self.lose_an_endpoint()
        await self.subscribe_a_client()
        await self.place_ordinary_orders()
        await self.read_a_payment_without_payments()
        await self.cancel_a_confirmed_order()
        await self.kill_a_worker_that_holds_jobs()
        await self.place_orders_in_an_outage()
        await self.exceed_the_limit()
        await self.wait_until_settled()
        return await self.count()

    async def lose_an_endpoint(self) -> None:
        """One client's endpoint answers the first webhook with 410: it is disabled, and the client told by mail."""
        await self._set_provider_faults()
        await self._client.set_customer_faults({"gone_rate": 1.0})
        answer = await served(partial(self._client.create_endpoint, LEAVER))
        _require(answer, HTTPStatus.CREATED, "the webhook endpoint")
        self._lost = Endpoint.model_validate_json(answer.body)
        [order] = FIRST
        await self._place_one(order)
        await poll(self._is_lost, seconds=_STEP_SECONDS, problem=lambda: f"{LEAVER}'s endpoint is still enabled")
        await self._client.set_customer_faults({})
        self._narrator.say(
            "disabled", f"{LEAVER}'s webhook endpoint, which {self._lost.disabled_reason} to order 1's; a mail says so"
        )

    async def _is_lost(self) -> bool:
        self._lost = await self._client.read_endpoint(LEAVER, self._lost.id)
        return not self._lost.enabled

    async def subscribe_a_client(self) -> None:
        """One client will be told of its orders by webhooks, which it verifies with the secret it was given."""
        answer = await served(partial(self._client.create_endpoint, SUBSCRIBER))
        _require(answer, HTTPStatus.CREATED, "the webhook endpoint")
        endpoint = Endpoint.model_validate_json(answer.body)
        await self._client.give_secret(SUBSCRIBER, endpoint.secret)
        self._narrator.say("subscribed", f"{SUBSCRIBER}'s webhook endpoint, {endpoint.url}: 201, and its secret")

    async def place_ordinary_orders(self) -> None:
        """One of them twice and one declined, and a mistake."""
        answers = await self._place(ORDINARY)
        await self._repeat(scripted(REPEATED), answers[REPEATED - ORDINARY[0].number])
        await self._order_what_is_not_there()
        await self._until_settled(seconds=_STEP_SECONDS)

    async def read_a_payment_without_payments(self) -> None:
        """The fallback answers from the order while payments' API is down."""
        [order] = FIRST
        await read_without_payments(
            self._platform,
            self._client,
            self._narrator,
            self._metrics,
            customer=order.client,
            order_id=self._watch.id_of(order),
            seconds=_STEP_SECONDS,
        )

    async def cancel_a_confirmed_order(self) -> None:
        order = scripted(CANCELLED_CONFIRMED)
        amount = await self._cancel(order, "confirmed and paid")
        await self._until_settled(seconds=_STEP_SECONDS)
        refunds = [refund.amount for refund in (await self._client.read_transfers()).refunded]
        if refunds != [amount]:
            raise RunnerError(f"order {order.number} cost {amount}, but the provider has refunded {refunds}")
        text = f"order {order.number}: {amount:,} by the provider's ledger, once and in full"
        self._narrator.say("refunded", text, style="green")

    async def kill_a_worker_that_holds_jobs(self) -> None:
        """The provider hangs, so the worker surely has the jobs when it is killed; one order is cancelled meanwhile."""
        await self._set_provider_faults(hang=True)
        self._narrator.say("hang", "the payment provider takes every request and answers none")
        await self._place(HELD)
        await poll(self._are_held, seconds=_STEP_SECONDS, problem=lambda: f"{WORKER} holds {self._held_jobs}")
        # What a killed process has counted goes with it.
        self._metrics.add(await self._payments.read_worker_metrics(), of_ended_process=True)
        pid = self._platform.pid(WORKER)
        self._platform.kill(WORKER)
        self._killed_at = self._narrator.seconds
        text = f"{WORKER} (pid {pid}) while it charges for {name_orders(HELD)}"
        self._narrator.say("SIGKILL", text, style="bold red")
        await self._cancel(scripted(CANCELLED_IN_HANG), "charged or not, nobody knows")
        async with asyncio.timeout(_STEP_SECONDS):
            await self._platform.until_ready(WORKER)

    async def place_orders_in_an_outage(self) -> None:
        """Orders are taken while the provider refuses everything, and when the breaker has opened; one is cancelled."""
        await self._set_provider_faults(unavailable=True)
        self._narrator.say("outage", "the payment provider answers 503 to everything")
        await self._place(IN_OUTAGE)
        await poll(self._is_breaker_open, seconds=_STEP_SECONDS, problem=lambda: "no breaker has opened")
        self._narrator.say("breaker", "open: payments leaves the provider alone; its jobs are rescheduled")
        await self._place(KEPT_AWAY)
        await poll(self._are_known, seconds=_STEP_SECONDS, problem=lambda: f"no payments of {name_orders(KEPT_AWAY)}")
        await self._cancel(scripted(CANCELLED_IN_OUTAGE), "its charge kept away")
        await self._set_provider_faults()
        self._narrator.say("outage", "is over; nobody is told: the breaker will try")

    async def exceed_the_limit(self) -> None:
        """One client reads until it is refused, waits as long as it is asked to, and is served again."""
        client = CLIENTS[1]
        refused = Answer(0, b"")
        reads = 0
        while refused.status != HTTPStatus.TOO_MANY_REQUESTS and reads < _MOST_READS:
            refused = await self._client.read_catalogue(client)
            reads += 1
        envelope = _refusal(refused, status=HTTPStatus.TOO_MANY_REQUESTS, code="RATE_LIMITED")
        text = (
            f"{client}'s read {reads} of the catalogue: 429 {envelope.error.code}, Retry-After {refused.retry_after:g}"
        )
        self._narrator.say("limit", text)
        await asyncio.sleep(refused.retry_after)
        after = await served(partial(self._client.read_catalogue, client))
        _require(after, HTTPStatus.OK, f"{client}, which waited as long as it was asked to,")
        self._narrator.say("limit", f"{client} waited that long: {after.status}")

    async def wait_until_settled(self) -> None:
        """Every order final, the killed worker's jobs done, every mail and webhook delivered."""
        self._narrator.say("waiting", "for the breaker to try, and for the leases of the killed worker to expire")
        await poll(self._are_jobs_taken_over, seconds=_SETTLE_SECONDS, problem=self._unfinished)
        seconds = self._narrator.seconds - self._killed_at
        text = f"{WORKER}'s jobs: their leases expired, they ran again and ended {seconds:.1f} s after the kill"
        self._narrator.say("taken over", text, style="green")
        await self._until_settled(seconds=_SETTLE_SECONDS)
        await poll(self._has_all_arrived, seconds=_STEP_SECONDS, problem=self._unfinished)
        text = f"{len(ORDERS)} orders, {len(self._watch.message_ids)} mails"
        self._narrator.say("settled", f"{text}, {len(self._watch.deliveries)} webhooks to {SUBSCRIBER}", style="green")

    async def count(self) -> Told:
        """What came of it, with every process's metrics as of now and the killed one's as of its end."""
        urls = managements(self._platform)
        for text in await asyncio.gather(*(self._client.read_metrics(url) for url in urls)):
            self._metrics.add(text)
        return Told(
            outcomes=self._watch.outcomes,
            message_ids=self._watch.message_ids,
            deliveries=self._watch.deliveries,
            transfers=await self._client.read_transfers(),
            metrics=self._metrics,
            processes=await asyncio.gather(*(self._client.read_info(url) for url in urls)),
        )

    async def _set_provider_faults(self, **switches: bool) -> None:
        """Those and no others, but one that is on all the time: every webhook comes twice."""
        await self._client.set_provider_faults({"webhook_duplicate_rate": 1.0, **switches})

    async def _place(self, orders: Sequence[ScriptedOrder]) -> list[Answer]:
        answers = [await self._place_one(order) for order in orders]
        by = f"{', '.join(CLIENTS[:-1])} and {CLIENTS[-1]}"
        self._narrator.say("placed", f"{name_orders(orders)}, by {by} in turn: 201, pending")
        return answers

    async def _place_one(self, order: ScriptedOrder) -> Answer:
        answer = await self._send(order)
        _require(answer, HTTPStatus.CREATED, f"order {order.number}")
        self._watch.add(OrderSeen.model_validate_json(answer.body).id, order)
        return answer

    async def _send(self, order: ScriptedOrder) -> Answer:
        return await served(partial(self._client.place, order.client, order.key, order.body))

    async def _repeat(self, order: ScriptedOrder, first: Answer) -> None:
        again = await self._send(order)
        if again != first:
            raise RunnerError(
                f"order {order.number} was answered differently under the same key: {again.body.decode()}"
            )
        order_id = OrderSeen.model_validate_json(again.body).id
        text = f"order {order.number} under the same Idempotency-Key: {order_id}, the same {len(again.body)} bytes"
        self._narrator.say("repeated", text)

    async def _order_what_is_not_there(self) -> None:
        client = CLIENTS[1]
        body = order_body(product=UNKNOWN_PRODUCT, quantity=1, email=f"customer@{client}.example", card="pm_card_ok")
        answer = await served(partial(self._client.place, client, "demo-mistake", body))
        envelope = _refusal(answer, status=HTTPStatus.UNPROCESSABLE_ENTITY, code="UNKNOWN_PRODUCT")
        fields = ", ".join(detail.field for detail in envelope.error.details)
        text = f"an order for a {UNKNOWN_PRODUCT}: {answer.status} {envelope.error.code}, {fields}; no order"
        self._narrator.say("refused", text)

    async def _cancel(self, order: ScriptedOrder, so_far: str) -> int:
        """Returns what the order cost."""
        answer = await served(partial(self._client.cancel, order.client, self._watch.id_of(order)))
        _require(answer, HTTPStatus.ACCEPTED, f"the cancellation of order {order.number}")
        seen = OrderSeen.model_validate_json(answer.body)
        self._watch.reopen(order)
        self._narrator.say("cancel", f"order {order.number}, {so_far}: {answer.status}, {seen.status}")
        return seen.amount

    async def _until_settled(self, *, seconds: float) -> None:
        async def are_final() -> bool:
            await self._watch.look()
            return not self._watch.open_orders()

        await poll(are_final, seconds=seconds, problem=self._unfinished)

    async def _are_held(self) -> bool:
        self._held_jobs = await self._payments.running_jobs()
        return len(self._held_jobs) == len(HELD)

    async def _are_jobs_taken_over(self) -> bool:
        await self._watch.look()
        return await self._payments.are_done(self._held_jobs)

    async def _is_breaker_open(self) -> bool:
        await self._watch.look()
        return await self._payments.has_breaker_opened()

    async def _are_known(self) -> bool:
        return await self._payments.know([self._watch.id_of(order) for order in KEPT_AWAY])

    async def _has_all_arrived(self) -> bool:
        await self._watch.look()
        delivered = {delivery.webhook_id for delivery in self._watch.deliveries if delivery.status is not None}
        return len(set(self._watch.message_ids)) >= MAILS and len(delivered) >= DELIVERIES

    def _unfinished(self) -> str:
        left = name_orders(self._watch.open_orders())
        arrived = f"{len(self._watch.message_ids)} of {MAILS} mails, {len(self._watch.deliveries)} of {DELIVERIES}"
        return f"not settled: {left}; {arrived} webhooks arrived"


def managements(platform: Platform) -> list[str]:
    """The management address of every service's process."""
    names = [name for service in SERVICES for name in (f"{service}-api", f"{service}-worker")]
    return [platform.supervisor.entries[name].program.management for name in names]


def _require(answer: Answer, status: HTTPStatus, what: str) -> None:
    if answer.status != status:
        raise RunnerError(f"{what} was answered {answer.status}: {answer.body.decode()}")


def _refusal(answer: Answer, *, status: int, code: str) -> ErrorEnvelope:
    """The envelope of an expected error; raises RunnerError when it is another answer."""
    if answer.status == status:
        envelope = ErrorEnvelope.model_validate_json(answer.body)
        if envelope.error.code == code and envelope.request_id:
            return envelope
    raise RunnerError(f"expected {status} {code}, but the answer was {answer.status}: {answer.body.decode()}")
