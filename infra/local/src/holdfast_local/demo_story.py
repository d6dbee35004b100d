"""The demo's steps, in their order. Each tells what it does and raises RunnerError when that goes wrong."""

import asyncio
from collections.abc import Sequence

import asyncpg

from holdfast_local.demo_client import Answer, DemoClient, ErrorEnvelope, OrderSeen
from holdfast_local.demo_metrics import Metrics
from holdfast_local.demo_script import (
    HELD,
    IN_OUTAGE,
    MAILS,
    ORDERS,
    ORDINARY,
    REPEATED,
    UNKNOWN_PRODUCT,
    ScriptedOrder,
    name_orders,
    order_body,
)
from holdfast_local.demo_verdict import Told
from holdfast_local.demo_watch import Narrator, OrderWatch, poll
from holdfast_local.errors import RunnerError
from holdfast_local.platform import Platform
from holdfast_local.secrets import CLIENTS, SERVICES

VICTIM = "payments-worker"

_SETTLE_SECONDS = 60.0  # a lease of 15 s, up to 3 s until it is noticed, a breaker's 12 s: twice their sum
_STEP_SECONDS = 20.0  # for one thing to happen that takes a second on an idle machine
_PLACE_TRIES = 5
_MOST_READS = 2000  # of the catalogue: a burst of 50 is spent long before

_CREATED, _UNPROCESSABLE, _TOO_MANY = 201, 422, 429


class Story:
    def __init__(self, platform: Platform, client: DemoClient, narrator: Narrator) -> None:
        self._platform = platform
        self._client = client
        self._narrator = narrator
        self._watch = OrderWatch(client, narrator)
        self._metrics = Metrics()
        self._held_jobs: list[int] = []
        self._killed_at = 0.0

    async def tell(self) -> Told:
        """All of it, and what came of it."""
        await self.place_ordinary_orders()
        await self.kill_a_worker_that_holds_jobs()
        await self.place_orders_in_an_outage()
        await self.exceed_the_limit()
        await self.wait_until_settled()
        return await self.count()

    async def place_ordinary_orders(self) -> None:
        """Twelve orders, one of them twice and one declined, and a mistake; every webhook comes twice meanwhile."""
        await self._client.set_provider_faults({"webhook_duplicate_rate": 1.0})
        answers = await self._place(ORDINARY)
        await self._repeat(ORDINARY[REPEATED - 1], answers[REPEATED - 1])
        await self._order_what_is_not_there()
        await self._until_settled(seconds=_STEP_SECONDS)

    async def kill_a_worker_that_holds_jobs(self) -> None:
        """The provider hangs, so the worker surely has the jobs when it is killed."""
        await self._client.set_provider_faults({"hang": True})
        await self._place(HELD)
        await poll(self._are_held, seconds=_STEP_SECONDS, problem=lambda: f"{VICTIM} holds {self._held_jobs}")
        # What a killed process has counted goes with it.
        self._metrics.add(await self._client.read_metrics(self._victim_management), of_ended_process=True)
        pid = self._platform.pid(VICTIM)
        self._platform.kill(VICTIM)
        self._killed_at = self._narrator.seconds
        text = f"{VICTIM} (pid {pid}) while it charges for {name_orders(HELD)}"
        self._narrator.say("SIGKILL", text, style="bold red")

    async def place_orders_in_an_outage(self) -> None:
        """Orders are taken while the provider refuses everything; it is back as soon as the breaker has opened."""
        await self._client.set_provider_faults({"unavailable": True})
        async with asyncio.timeout(_STEP_SECONDS):
            await self._platform.until_ready(VICTIM)
        self._narrator.say("outage", "the payment provider answers 503 to everything")
        await self._place(IN_OUTAGE)
        await poll(self._is_breaker_open, seconds=_STEP_SECONDS, problem=lambda: "no breaker has opened")
        self._narrator.say("breaker", "open: payments leaves the provider alone; its jobs are rescheduled")
        await self._client.set_provider_faults({})
        self._narrator.say("outage", "is over; nobody is told: the breaker will try")

    async def exceed_the_limit(self) -> None:
        """One client reads until it is refused, waits as long as it is asked to, and is served again."""
        client = CLIENTS[-1]
        refused = Answer(0, b"")
        reads = 0
        while refused.status != _TOO_MANY and reads < _MOST_READS:
            refused = await self._client.read_catalogue(client)
            reads += 1
        envelope = _refusal(refused, status=_TOO_MANY, code="RATE_LIMITED")
        text = (
            f"{client}'s read {reads} of the catalogue: 429 {envelope.error.code}, Retry-After {refused.retry_after:g}"
        )
        self._narrator.say("limit", text)
        await asyncio.sleep(refused.retry_after)
        after = await self._client.read_catalogue(client)
        if after.status == _TOO_MANY:
            raise RunnerError(f"{client} waited as long as it was asked to and was refused again")
        self._narrator.say("limit", f"{client} waited that long: {after.status}")

    async def wait_until_settled(self) -> None:
        """Every order final, the killed worker's jobs done, every mail delivered."""
        self._narrator.say("waiting", "for the breaker to try, and for the leases of the killed worker to expire")
        await poll(self._are_jobs_taken_over, seconds=_SETTLE_SECONDS, problem=self._unfinished)
        seconds = self._narrator.seconds - self._killed_at
        text = f"{VICTIM}'s jobs: their leases expired, they ran again and ended {seconds:.1f} s after the kill"
        self._narrator.say("taken over", text, style="green")
        await self._until_settled(seconds=_SETTLE_SECONDS)
        await poll(self._have_mails_arrived, seconds=_STEP_SECONDS, problem=self._unfinished)
        self._narrator.say("settled", f"{len(ORDERS)} orders, {len(self._watch.message_ids)} mails", style="green")

    async def count(self) -> Told:
        """What came of it, with every process's metrics as of now and the killed one's as of its end."""
        urls = managements(self._platform)
        for text in await asyncio.gather(*(self._client.read_metrics(url) for url in urls)):
            self._metrics.add(text)
        return Told(
            outcomes=self._watch.outcomes,
            message_ids=self._watch.message_ids,
            metrics=self._metrics,
            processes=await asyncio.gather(*(self._client.read_info(url) for url in urls)),
        )

    async def _place(self, orders: Sequence[ScriptedOrder]) -> list[Answer]:
        answers = [await self._place_one(order) for order in orders]
        self._narrator.say("placed", f"{name_orders(orders)}, by {' and '.join(CLIENTS)} in turn: 201, pending")
        return answers

    async def _place_one(self, order: ScriptedOrder) -> Answer:
        for _ in range(_PLACE_TRIES):
            answer = await self._client.place(order.client, order.key, order.body)
            if answer.status != _TOO_MANY:
                break
            await asyncio.sleep(answer.retry_after)
        if answer.status != _CREATED:
            raise RunnerError(f"order {order.number} was answered {answer.status}: {answer.body.decode()}")
        self._watch.add(OrderSeen.model_validate_json(answer.body).id, order)
        return answer

    async def _repeat(self, order: ScriptedOrder, first: Answer) -> None:
        again = await self._client.place(order.client, order.key, order.body)
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
        answer = await self._client.place(client, "demo-mistake", body)
        envelope = _refusal(answer, status=_UNPROCESSABLE, code="UNKNOWN_PRODUCT")
        fields = ", ".join(detail.field for detail in envelope.error.details)
        text = f"an order for a {UNKNOWN_PRODUCT}: {answer.status} {envelope.error.code}, {fields}; no order"
        self._narrator.say("refused", text)

    async def _until_settled(self, *, seconds: float) -> None:
        async def are_final() -> bool:
            await self._watch.look()
            return not self._watch.open_orders()

        await poll(are_final, seconds=seconds, problem=self._unfinished)

    async def _are_held(self) -> bool:
        self._held_jobs = [row["id"] for row in await self._ask_payments("SELECT id FROM job WHERE status = 'running'")]
        return len(self._held_jobs) == len(HELD)

    async def _are_jobs_taken_over(self) -> bool:
        await self._watch.look()
        return not await self._ask_payments("SELECT id FROM job WHERE id = ANY($1)", self._held_jobs)

    async def _is_breaker_open(self) -> bool:
        await self._watch.look()
        metrics = Metrics()
        metrics.add(await self._client.read_metrics(self._victim_management))
        return metrics.total("circuit_breaker_transitions_total", dependency="provider", to="open") > 0

    async def _have_mails_arrived(self) -> bool:
        await self._watch.look()
        return len(set(self._watch.message_ids)) >= MAILS

    async def _ask_payments(self, query: str, *values: list[int]) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self._platform.installation.database_dsn("payments"))
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query, *values)
            return rows
        finally:
            await connection.close()

    def _unfinished(self) -> str:
        left = name_orders(self._watch.open_orders())
        return f"not settled: {left}; {len(self._watch.message_ids)} of {MAILS} mails arrived"

    @property
    def _victim_management(self) -> str:
        return self._platform.supervisor.entries[VICTIM].program.management


def managements(platform: Platform) -> list[str]:
    """The management address of every service's process."""
    names = [name for service in SERVICES for name in (f"{service}-api", f"{service}-worker")]
    return [platform.supervisor.entries[name].program.management for name in names]


def _refusal(answer: Answer, *, status: int, code: str) -> ErrorEnvelope:
    """The envelope of an expected error; raises RunnerError when it is another answer."""
    if answer.status == status:
        envelope = ErrorEnvelope.model_validate_json(answer.body)
        if envelope.error.code == code and envelope.request_id:
            return envelope
    raise RunnerError(f"expected {status} {code}, but the answer was {answer.status}: {answer.body.decode()}")
