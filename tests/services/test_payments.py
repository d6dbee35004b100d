"""Payments: one payment per order, an attempt row before each POST, and one verdict whatever its way and order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from aiohttp import web
from backends import FreshDatabase
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.errors import (
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
    LeaseLost,
    PermanentJobError,
)
from chassis.errors.fields import MAX_AMOUNT
from chassis.events.delivery import Handler
from chassis.events.outbox import Event
from chassis.pooling import Database
from harness import (
    AUTH,
    UNLIMITED,
    FakeServer,
    attempt,
    count,
    deliver,
    dependency,
    envelope,
    events,
    execute,
    http_client,
    job_statuses,
    one,
    rows,
    running,
)
from holdfast_local.ports import free_port
from payments import jobs, use_cases
from payments.api import create_app
from payments.events import on_charge_failed, on_charge_succeeded
from payments.messages import (
    PROVIDER_STREAM,
    ChargePayment,
    MakeRefund,
    ProviderChargeFailed,
    ProviderChargeSucceeded,
    ReconcileCharge,
)
from payments.models import PAYMENT, PaymentStatus
from payments.provider_client import ProviderClient
from payments.settings import PaymentsSettings
from payments.use_cases import ChargeReport, RefundReport
from redis.asyncio import Redis

HANDLERS: list[tuple[type[Event], Handler]] = [
    (ProviderChargeSucceeded, on_charge_succeeded),
    (ProviderChargeFailed, on_charge_failed),
]
CHARGEABLE = {PaymentStatus.CREATED, PaymentStatus.SUBMITTING}


@dataclass(frozen=True, slots=True)
class Payments:
    """The service under test, its database, and its client."""

    settings: PaymentsSettings
    database: Database
    redis: Redis
    client_of: Callable[..., httpx.AsyncClient]
    client: httpx.AsyncClient

    async def ask(self, **changes: object) -> httpx.Response:
        return await self.client.post("/v1/payments", json=asked_for(**changes))

    async def asked(self) -> UUID:
        """Ask for a new payment and return its id."""
        answer = await self.ask()
        assert answer.status_code == 202, answer.text
        return UUID(answer.json()["id"])

    async def row(self, payment_id: UUID) -> Any:
        return await one(self.database, "SELECT * FROM payment WHERE id = :id", id=payment_id)

    async def attempts(self, payment_id: UUID) -> list[tuple[int, str]]:
        query = "SELECT n, outcome FROM charge_attempt WHERE payment_id = :id ORDER BY n"
        return [(row.n, row.outcome) for row in await rows(self.database, query, id=payment_id)]

    async def answers(self, payment_id: UUID) -> list[tuple[str | None, bool]]:
        """Of each attempt: what was answered, and whether it has an end."""
        query = "SELECT answer, ended_at IS NOT NULL AS is_over FROM charge_attempt WHERE payment_id = :id ORDER BY n"
        return [(row.answer, row.is_over) for row in await rows(self.database, query, id=payment_id)]

    async def begin(self, payment_id: UUID) -> int | None:
        async with self.database.transaction() as session:
            return await use_cases.begin_attempt(session, payment_id)

    async def not_run(self, payment_id: UUID, n: int) -> None:
        async with self.database.transaction() as session:
            await use_cases.attempt_not_run(session, payment_id, n)

    async def report(self, report: ChargeReport) -> bool:
        async with self.database.transaction() as session:
            return await use_cases.apply_charge_report(session, report)

    async def void(self, payment_id: UUID, **changes: object) -> httpx.Response:
        row = await rows(self.database, "SELECT order_id FROM payment WHERE id = :id", id=payment_id)
        order_id = str(row[0].order_id) if row else str(uuid4())
        body = {"order_id": order_id, "amount": 12898, "currency": "EUR"} | changes
        return await self.client.post(f"/v1/payments/{payment_id}/refund", json=body)

    async def captured(self) -> UUID:
        """A payment whose money has arrived."""
        payment_id = await self.asked()
        await execute(self.database, "DELETE FROM job")
        await self.begin(payment_id)
        await self.report(ChargeReport(payment_id, "captured", "ch_1"))
        return payment_id

    async def deliver(self, *envelopes: str) -> None:
        await deliver(self.redis, self.database, HANDLERS, *envelopes, stream=PROVIDER_STREAM)


@pytest.fixture
async def payments(
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
    patient_redis: RedisSettings,
    redis: Redis,
    server: FakeServer,
) -> AsyncIterator[Payments]:
    settings = PaymentsSettings(
        database=await empty_database("payments"),
        redis=patient_redis,
        auth=AUTH,
        rate_limit=UNLIMITED,
        provider=dependency(server.url),
    )
    async with running(create_app(Live(settings))) as client_of, client_of() as client:
        yield Payments(settings, open_database(settings.database), redis, client_of, client)


def asked_for(**changes: object) -> dict[str, object]:
    return {
        "payment_id": str(uuid4()),
        "order_id": str(uuid4()),
        "amount": 12898,
        "currency": "EUR",
        "payment_method": "pm_card_ok",
    } | changes


type Charge = Callable[[], Awaitable[Exception | None]]


@asynccontextmanager
async def charging(payments: Payments, url: str | None = None) -> AsyncIterator[Charge]:
    """Yields how to make one attempt at the job `charge_payment`."""
    settings = dependency(url) if url else payments.settings.provider
    http = http_client("provider", settings)
    try:
        handler = partial(jobs.charge_payment, payments.database, ProviderClient(http))
        yield partial(attempt, payments.database, ChargePayment, handler)
    finally:
        await http.close()


def charge(status: str = "pending", identifier: str = "ch_1", **more: object) -> dict[str, object]:
    return {"id": identifier, "status": status} | more


def succeeded(reference: object, identifier: str = "ch_1") -> ProviderChargeSucceeded:
    return ProviderChargeSucceeded(
        reference=str(reference), provider_id=identifier, object_version=2, amount=12898, raw_event_id="evt_1"
    )


def failed(reference: object, identifier: str = "ch_1") -> ProviderChargeFailed:
    return ProviderChargeFailed(
        reference=str(reference),
        provider_id=identifier,
        object_version=2,
        amount=12898,
        raw_event_id="evt_2",
        failure_code="card_declined",
    )


def sent(event: ProviderChargeSucceeded | ProviderChargeFailed) -> str:
    return envelope(event, aggregate_id=uuid4(), version=1)


# Asking for a payment


async def test_a_payment_asked_for_twice_is_accepted_then_shown_with_the_same_version(payments: Payments) -> None:
    request = asked_for()
    first = await payments.client.post("/v1/payments", json=request)
    again = await payments.client.post("/v1/payments", json=request)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json() == again.json()
    assert (first.json()["status"], first.json()["version"]) == ("created", 0)
    assert await job_statuses(payments.database, "charge_payment") == ["ready"]


async def test_one_payment_asked_for_by_many_at_once_is_one_payment_with_one_job(payments: Payments) -> None:
    request = asked_for()
    answers = await asyncio.gather(*(payments.client.post("/v1/payments", json=request) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
    assert await count(payments.database, "payment") == await count(payments.database, "job") == 1


async def test_of_two_payments_for_one_order_at_once_one_is_refused(payments: Payments) -> None:
    order_id = str(uuid4())
    answers = await asyncio.gather(*(payments.ask(order_id=order_id) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    assert await count(payments.database, "payment") == await count(payments.database, "job") == 1


async def test_another_amount_currency_or_order_under_the_same_payment_is_a_conflict(payments: Payments) -> None:
    request = asked_for()
    await payments.client.post("/v1/payments", json=request)
    for changes in ({"amount": 1}, {"currency": "USD"}, {"order_id": str(uuid4())}, {"payment_id": str(uuid4())}):
        answer = await payments.client.post("/v1/payments", json=request | changes)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "STATE_CONFLICT"), changes
    assert await count(payments.database, "payment") == 1


async def test_a_repeated_request_learns_what_became_of_the_payment(payments: Payments) -> None:
    request = asked_for()
    payment_id = UUID((await payments.client.post("/v1/payments", json=request)).json()["id"])
    await payments.begin(payment_id)
    await payments.report(ChargeReport(payment_id, "failed", reason="card_declined"))
    again = await payments.client.post("/v1/payments", json=request)
    assert again.status_code == 200
    assert (again.json()["status"], again.json()["version"], again.json()["reason"]) == ("failed", 1, "card_declined")
    assert (await payments.client.get(f"/v1/payments/{payment_id}")).json() == again.json()


async def test_a_request_of_another_shape_is_refused(payments: Payments) -> None:
    for changes in (
        {"amount": 0},
        {"amount": MAX_AMOUNT + 1},
        {"amount": 2**63},
        {"amount": 1.5},
        {"currency": "euro"},
        {"payment_id": "x"},
        {"payment_method": "4242 4242"},
        {"more": 1},
    ):
        answer = await payments.client.post("/v1/payments", json=asked_for(**changes))
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "VALIDATION_FAILED"), changes
    assert (await payments.ask(amount=MAX_AMOUNT)).status_code == 202


async def test_the_largest_amount_is_charged_and_shown_as_it_is(payments: Payments, server: FakeServer) -> None:
    server.answers(201, charge())
    asked = (await payments.ask(amount=MAX_AMOUNT)).json()
    async with charging(payments) as attempt_charge:
        assert await attempt_charge() is None
    assert server.asked[0].json["amount"] == MAX_AMOUNT
    assert (await payments.client.get(f"/v1/payments/{asked['id']}")).json()["amount"] == MAX_AMOUNT


async def test_without_a_key_nothing_is_taken_or_shown(payments: Payments) -> None:
    async with payments.client_of(None) as nobody:
        assert (await nobody.post("/v1/payments", json=asked_for())).status_code == 401
        assert (await nobody.get(f"/v1/payments/{uuid4()}")).status_code == 401
    assert await count(payments.database, "payment") == 0
    assert (await payments.client.get(f"/v1/payments/{uuid4()}")).status_code == 404


# Charging


async def test_the_attempt_is_committed_before_its_post_is_sent(payments: Payments, server: FakeServer) -> None:
    payment_id = await payments.asked()
    seen: list[Any] = []

    async def look(_request: web.Request) -> web.Response:
        seen.append(((await payments.row(payment_id)).status, await payments.attempts(payment_id)))
        return web.json_response(charge(), status=201)

    server.answer = look
    async with charging(payments) as attempt_charge:
        assert await attempt_charge() is None
    assert seen == [("submitting", [(1, "open")])]
    row = await payments.row(payment_id)
    assert (row.status, row.provider_charge_id, row.version) == ("submitted", "ch_1", 0)
    assert await events(payments.database, payment_id) == []
    assert await job_statuses(payments.database, "charge_payment") == []


async def test_each_turn_of_the_retry_loop_is_an_attempt_under_one_key(payments: Payments, server: FakeServer) -> None:
    payment_id = await payments.asked()
    server.answers(503)
    async with charging(payments) as attempt_charge:
        assert isinstance(await attempt_charge(), DependencyFailed)
        assert await payments.attempts(payment_id) == [(1, "open"), (2, "open"), (3, "open")]
        server.answers(201, charge())
        assert await attempt_charge() is None
    assert await payments.attempts(payment_id) == [(1, "open"), (2, "open"), (3, "open"), (4, "open")]
    assert await payments.answers(payment_id) == [(None, False), (None, False), (None, False), ("accepted", True)]
    assert {asked.headers["Idempotency-Key"] for asked in server.asked} == {f"charge:{payment_id}"}
    assert all(asked.json == server.asked[0].json for asked in server.asked)
    assert server.asked[0].json == {
        "reference": str(payment_id),
        "amount": 12898,
        "currency": "EUR",
        "payment_method": "pm_card_ok",
    }


async def test_a_429_did_not_run_and_leaves_the_payment_as_created(payments: Payments, server: FakeServer) -> None:
    payment_id = await payments.asked()
    server.answers(429)
    async with charging(payments) as attempt_charge:
        raised = await attempt_charge()
    assert isinstance(raised, DependencyUnavailable)
    assert await payments.attempts(payment_id) == [(n, "not_run") for n in range(1, len(server.asked) + 1)]
    assert set(await payments.answers(payment_id)) == {(None, True)}
    assert (await payments.row(payment_id)).status == "created"
    assert await job_statuses(payments.database, "charge_payment") == ["ready"]


async def test_a_refused_connection_did_not_run_either(payments: Payments) -> None:
    payment_id = await payments.asked()
    async with charging(payments, f"http://127.0.0.1:{free_port()}") as attempt_charge:
        assert isinstance(await attempt_charge(), DependencyUnavailable)
    assert {outcome for _, outcome in await payments.attempts(payment_id)} == {"not_run"}
    assert (await payments.row(payment_id)).status == "created"


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (lambda server: server.answers(500), DependencyFailed),
        (lambda server: server.answers(503), DependencyFailed),
        (FakeServer.hangs, DependencyTimeout),
        (FakeServer.resets, DependencyFailed),
        (lambda server: server.answers(409, {"error": {"code": "request_in_progress"}}), DependencyRejected),
        (lambda server: server.answers(401), DependencyRejected),
        (lambda server: server.answers(201, {"no": "charge"}), DependencyFailed),
        (lambda server: server.answers(201, charge("captured", "ch\0")), DependencyFailed),
        (lambda server: server.answers(201, charge("on the moon")), DependencyFailed),
    ],
    ids=["500", "503", "time-out", "reset", "409", "401", "unreadable", "unkeepable", "unknown status"],
)
async def test_an_unknown_outcome_stays_open_and_submitting(
    payments: Payments, server: FakeServer, trouble: Callable[[FakeServer], None], error: type[Exception]
) -> None:
    payment_id = await payments.asked()
    trouble(server)
    async with charging(payments) as attempt_charge:
        assert type(await attempt_charge()) is error
    assert await payments.attempts(payment_id) == [(n, "open") for n in range(1, len(server.asked) + 1)]
    row = await payments.row(payment_id)
    assert (row.status, row.version) == ("submitting", 0)
    assert await events(payments.database, payment_id) == []
    assert await job_statuses(payments.database, "charge_payment") == ["ready"]


async def test_one_open_attempt_keeps_the_payment_submitting_whatever_did_not_run(
    payments: Payments, server: FakeServer
) -> None:
    payment_id = await payments.asked()
    left = [503, 429, 429]

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({}, status=left.pop(0))

    server.answer = answer
    async with charging(payments) as attempt_charge:
        # That the last POST was refused says nothing of the first one.
        assert isinstance(await attempt_charge(), DependencyFailed)
    assert await payments.attempts(payment_id) == [(1, "open"), (2, "not_run"), (3, "not_run")]
    assert (await payments.row(payment_id)).status == "submitting"


@pytest.mark.parametrize(("status", "code"), [(402, "card_declined"), (422, "invalid_payment_method")])
async def test_a_refusal_for_good_fails_the_payment_with_its_event(
    payments: Payments, server: FakeServer, status: int, code: str
) -> None:
    payment_id = await payments.asked()
    server.answers(status, {"error": {"code": code}})
    async with charging(payments) as attempt_charge:
        assert await attempt_charge() is None
    row = await payments.row(payment_id)
    assert (row.status, row.reason, row.version) == ("failed", code, 1)
    assert await payments.answers(payment_id) == [(code, True)]
    assert await events(payments.database, payment_id) == [(1, "payment.failed")]
    assert await job_statuses(payments.database, "charge_payment") == []


async def test_a_refusal_without_a_readable_reason_fails_all_the_same(payments: Payments, server: FakeServer) -> None:
    for body in (["?"], None, {"error": "declined"}, {"error": {"code": 7}}, {"error": {"code": "nul\0"}}):
        payment_id = await payments.asked()
        server.answers(402, body)
        async with charging(payments) as attempt_charge:
            assert await attempt_charge() is None
        row = await payments.row(payment_id)
        assert (row.status, row.reason) == ("failed", "unreadable_answer"), body


async def test_a_key_that_stands_for_another_payload_is_for_a_person_to_look_at(
    payments: Payments, server: FakeServer
) -> None:
    payment_id = await payments.asked()
    server.answers(422, {"error": {"code": "idempotency_key_reused"}})
    async with charging(payments) as attempt_charge:
        assert isinstance(await attempt_charge(), PermanentJobError)
    assert await job_statuses(payments.database, "charge_payment") == ["dead"]
    assert (await payments.row(payment_id)).status == "submitting"
    assert await payments.attempts(payment_id) == [(1, "open")]
    assert await events(payments.database, payment_id) == []


@pytest.mark.parametrize(("status", "type_name"), [("captured", "payment.captured"), ("failed", "payment.failed")])
async def test_a_final_answer_is_applied_at_once(
    payments: Payments, server: FakeServer, status: str, type_name: str
) -> None:
    payment_id = await payments.asked()
    server.answers(201, charge(status, failure_code="card_declined" if status == "failed" else None))
    async with charging(payments) as attempt_charge:
        assert await attempt_charge() is None
    row = await payments.row(payment_id)
    assert (row.status, row.version) == (status, 1)
    event = await one(payments.database, "SELECT * FROM outbox")
    assert (event.type, event.stream, event.aggregate_id) == (type_name, "events:payments", str(payment_id))
    assert event.payload == {
        "payment_id": str(payment_id),
        "order_id": str(row.order_id),
        "status": status,
        "amount": 12898,
        "currency": "EUR",
        "reason": "card_declined" if status == "failed" else None,
    }


@pytest.mark.parametrize("status", [state for state in PaymentStatus if state not in CHARGEABLE])
async def test_a_payment_that_moved_on_is_never_charged(
    payments: Payments, server: FakeServer, status: PaymentStatus
) -> None:
    payment_id = await payments.asked()
    await execute(payments.database, "UPDATE payment SET status = :status", status=status.value)
    assert await payments.begin(payment_id) is None
    async with charging(payments) as attempt_charge:
        assert await attempt_charge() is None
    assert server.asked == []
    assert await payments.attempts(payment_id) == []
    assert (await payments.row(payment_id)).status == status


async def test_a_payment_captured_between_two_attempts_is_not_charged_again(
    payments: Payments, server: FakeServer
) -> None:
    payment_id = await payments.asked()

    async def answer(_request: web.Request) -> web.Response:
        await payments.report(ChargeReport(payment_id, "captured", "ch_1"))
        return web.Response(status=503)

    server.answer = answer
    async with charging(payments) as attempt_charge:
        assert await attempt_charge() is None
    assert len(server.asked) == 1
    assert (await payments.row(payment_id)).status == "captured"
    assert await job_statuses(payments.database, "charge_payment") == []


async def test_attempts_begun_at_once_have_numbers_of_their_own(payments: Payments) -> None:
    payment_id = await payments.asked()
    numbers = await asyncio.gather(*(payments.begin(payment_id) for _ in range(20)))
    assert sorted(n for n in numbers if n is not None) == list(range(1, 21))
    # Only the last of them makes it `created` again.
    for n in range(1, 20):
        await payments.not_run(payment_id, n)
    assert (await payments.row(payment_id)).status == "submitting"
    await payments.not_run(payment_id, 20)
    assert (await payments.row(payment_id)).status == "created"


async def test_attempts_that_end_at_once_leave_the_payment_as_created(payments: Payments) -> None:
    payment_id = await payments.asked()
    numbers = [await payments.begin(payment_id) for _ in range(8)]
    await asyncio.gather(*(payments.not_run(payment_id, n) for n in numbers if n is not None))
    assert (await payments.row(payment_id)).status == "created"


async def test_a_stale_worker_moves_nothing_back(payments: Payments) -> None:
    payment_id = await payments.asked()
    n = await payments.begin(payment_id)
    assert n is not None
    await payments.report(ChargeReport(payment_id, "captured", "ch_1"))
    await payments.not_run(payment_id, n)
    assert (await payments.row(payment_id)).status == "captured"


async def test_a_worker_that_lost_its_lease_reports_nothing(payments: Payments, server: FakeServer) -> None:
    payment_id = await payments.asked()

    async def answer_late(_request: web.Request) -> web.Response:
        await execute(payments.database, "UPDATE job SET attempt = attempt + 1")
        return web.json_response(charge("captured"), status=201)

    server.answer = answer_late
    async with charging(payments) as attempt_charge:
        assert isinstance(await attempt_charge(), LeaseLost)
    # What it learned is not lost: the owner's POST, under the same key, gets the same answer.
    assert (await payments.row(payment_id)).status == "submitting"
    assert await events(payments.database, payment_id) == []


# Reports, whatever their way


async def test_a_webhook_that_comes_before_the_answer_wins(payments: Payments, server: FakeServer) -> None:
    payment_id = await payments.asked()

    async def answer_late(_request: web.Request) -> web.Response:
        await payments.deliver(sent(succeeded(payment_id, "ch_1")))
        return web.json_response(charge("pending", "ch_1"), status=201)

    server.answer = answer_late
    # Its consumer needs more time than one attempt has in these tests.
    slow = payments.settings.provider.model_copy(update={"attempt_timeout": 5.0})
    http = http_client("provider", slow)
    handler = partial(jobs.charge_payment, payments.database, ProviderClient(http))
    assert await attempt(payments.database, ChargePayment, handler) is None
    await http.close()
    row = await payments.row(payment_id)
    assert (row.status, row.version, row.provider_charge_id) == ("captured", 1, "ch_1")
    assert await events(payments.database, payment_id) == [(1, "payment.captured")]


async def test_late_and_repeated_news_moves_a_settled_payment_nowhere(payments: Payments) -> None:
    payment_id = await payments.asked()
    await payments.begin(payment_id)
    captured, late = sent(succeeded(payment_id)), sent(failed(payment_id, "ch_2"))
    await payments.deliver(captured, late, captured, sent(succeeded(payment_id, "ch_3")))
    row = await payments.row(payment_id)
    assert (row.status, row.version, row.provider_charge_id, row.reason) == ("captured", 1, "ch_1", None)
    assert await events(payments.database, payment_id) == [(1, "payment.captured")]
    assert await count(payments.database, "dead_event") == 0


async def test_a_failed_charge_keeps_its_reason(payments: Payments) -> None:
    payment_id = await payments.asked()
    await payments.begin(payment_id)
    await payments.report(ChargeReport(payment_id, "accepted", "ch_1"))
    await payments.deliver(sent(failed(payment_id)))
    row = await payments.row(payment_id)
    assert (row.status, row.reason, row.version) == ("failed", "card_declined", 1)


@pytest.mark.parametrize("state", PaymentStatus)
async def test_a_report_moves_a_payment_only_where_the_protocol_lets_it(
    payments: Payments, state: PaymentStatus
) -> None:
    targets = {"accepted": "submitted", "captured": "captured", "failed": "failed"}
    reports: tuple[Any, ...] = tuple(targets)
    for status in reports:
        payment_id = await payments.asked()
        values = {"status": state.value, "id": payment_id}
        await execute(payments.database, "UPDATE payment SET status = :status WHERE id = :id", **values)
        target = PaymentStatus(targets[status])
        is_legal = target in PAYMENT.moves[state]
        assert await payments.report(ChargeReport(payment_id, status, "ch_1")) is is_legal
        row = await payments.row(payment_id)
        assert row.status == (target if is_legal else state)
        assert row.provider_charge_id == "ch_1"
        assert row.version == len(await events(payments.database, payment_id))


async def test_reports_at_once_settle_a_payment_once(payments: Payments) -> None:
    ids = [await payments.asked() for _ in range(5)]
    for payment_id in ids:
        await payments.begin(payment_id)
    statuses: tuple[Any, ...] = ("captured", "failed", "accepted", "captured", "failed")
    reports = [ChargeReport(payment_id, status, "ch_1") for payment_id in ids for status in statuses]
    await asyncio.gather(*(payments.report(report) for report in reports))
    for payment_id in ids:
        row = await payments.row(payment_id)
        assert await events(payments.database, payment_id) == [(1, f"payment.{row.status}")]
        assert row.version == 1


async def test_a_reference_that_is_not_ours_is_a_dead_letter(payments: Payments) -> None:
    unknown = uuid4()
    await payments.deliver(sent(succeeded(unknown)), sent(failed("not-a-uuid")))
    reasons = [row.reason for row in await rows(payments.database, "SELECT reason FROM dead_event ORDER BY id")]
    assert str(unknown) in reasons[0]
    assert "not-a-uuid" in reasons[1]


# Bringing the net to zero


async def test_voiding_an_unknown_payment_leaves_a_tombstone_that_its_late_request_finds(payments: Payments) -> None:
    request = asked_for()
    payment_id = UUID(str(request["payment_id"]))
    voided = await payments.void(payment_id, order_id=request["order_id"])
    assert (voided.status_code, voided.json()["status"], voided.json()["version"]) == (202, "canceled", 1)
    late = await payments.client.post("/v1/payments", json=request)
    assert (late.status_code, late.json()) == (200, voided.json())
    assert (await payments.void(payment_id)).json() == voided.json()
    assert await events(payments.database, payment_id) == [(1, "payment.canceled")]
    assert await count(payments.database, "job") == 0


async def test_voiding_and_asking_at_once_never_leaves_a_payment_to_be_charged(
    payments: Payments, server: FakeServer
) -> None:
    for _ in range(5):
        request = asked_for()
        payment_id = UUID(str(request["payment_id"]))
        await asyncio.gather(
            payments.client.post("/v1/payments", json=request), payments.void(payment_id, order_id=request["order_id"])
        )
        assert (await payments.row(payment_id)).status == "canceled"
        assert await payments.begin(payment_id) is None
    assert server.asked == []


async def test_a_created_payment_is_canceled_before_it_is_charged(payments: Payments, server: FakeServer) -> None:
    payment_id = await payments.asked()
    assert (await payments.void(payment_id)).json()["status"] == "canceled"
    async with charging(payments) as attempt_charge:
        assert await attempt_charge() is None
    assert server.asked == []
    assert await events(payments.database, payment_id) == [(1, "payment.canceled")]


async def test_an_open_attempt_is_waited_for_then_refunded_or_canceled(payments: Payments) -> None:
    arrives, never = await payments.asked(), await payments.asked()
    n = [await payments.begin(payment_id) for payment_id in (arrives, never)][1]
    assert n is not None
    for payment_id in (arrives, never):
        assert (await payments.void(payment_id)).json()["status"] == "submitting"
    assert await count(payments.database, "refund") == 0
    await payments.report(ChargeReport(arrives, "captured", "ch_1"))
    await payments.not_run(never, n)
    assert (await one(payments.database, "SELECT payment_id FROM refund")).payment_id == arrives
    assert (await payments.row(never)).status == "canceled"
    assert await events(payments.database, never) == [(1, "payment.canceled")]


async def test_a_captured_payment_voided_by_many_at_once_is_refunded_once(payments: Payments) -> None:
    payment_id = await payments.captured()
    answers = await asyncio.gather(*(payments.void(payment_id) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert await count(payments.database, "refund") == 1
    assert await job_statuses(payments.database, "make_refund") == ["ready"]


async def test_a_refund_is_asked_for_under_a_key_of_its_own_and_told_of(payments: Payments, server: FakeServer) -> None:
    payment_id = await payments.captured()
    await payments.void(payment_id)
    refund = await one(payments.database, "SELECT * FROM refund")
    http = http_client("provider", payments.settings.provider)
    handler = partial(jobs.make_refund, payments.database, ProviderClient(http))
    server.answers(503)
    assert isinstance(await attempt(payments.database, MakeRefund, handler), DependencyFailed)
    server.answers(201, {"id": "re_1", "status": "succeeded"})
    assert await attempt(payments.database, MakeRefund, handler) is None
    await http.close()
    assert {asked.headers["Idempotency-Key"] for asked in server.asked} == {f"refund:{refund.id}"}
    assert (await payments.row(payment_id)).status == "refunded"
    assert await events(payments.database, payment_id) == [(1, "payment.captured"), (2, "payment.refunded")]


async def test_a_failed_refund_is_followed_by_another_three_times_in_all(payments: Payments) -> None:
    payment_id = await payments.captured()
    await payments.void(payment_id)
    for n in (1, 2, 3):
        refund = await one(payments.database, "SELECT * FROM refund WHERE n = :n", n=n)
        async with payments.database.transaction() as session:
            await use_cases.apply_refund_report(session, RefundReport(refund.id, "failed", reason="no_funds"))
            # Told twice, it is no news.
            assert not await use_cases.apply_refund_report(session, RefundReport(refund.id, "failed"))
    assert await count(payments.database, "refund") == 3
    assert (await payments.row(payment_id)).status == "captured"


# What nobody told


async def test_a_sweep_gives_each_open_payment_a_job_and_only_one(payments: Payments) -> None:
    created, submitting, submitted = [await payments.asked() for _ in range(3)]
    settled = await payments.captured()
    for payment_id in (submitting, submitted):
        await payments.begin(payment_id)
    await payments.report(ChargeReport(submitted, "accepted", "ch_1"))
    await execute(payments.database, "DELETE FROM job")
    await execute(payments.database, "UPDATE payment SET updated_at = now() - interval '1 hour'")
    for _ in range(2):
        async with payments.database.transaction() as session:
            await use_cases.sweep(session, stale_after=60, batch=10)
    found = await rows(payments.database, "SELECT name, payload FROM job")
    assert {(row.name, row.payload["payment_id"]) for row in found} == {
        ("charge_payment", str(created)),
        ("charge_payment", str(submitting)),
        ("reconcile_charge", str(submitted)),
    }
    assert len(found) == 3
    assert (await payments.row(settled)).status == "captured"


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([], "submitted"),
        ([charge("pending")], "submitted"),
        ([charge("captured")], "captured"),
        ([charge("failed", "ch_1"), charge("captured", "ch_2")], "captured"),
    ],
)
async def test_reconciling_believes_what_the_provider_has_and_nothing_else(
    payments: Payments, server: FakeServer, found: list[dict[str, object]], status: str
) -> None:
    payment_id = await payments.asked()
    await payments.begin(payment_id)
    await payments.report(ChargeReport(payment_id, "accepted"))
    await execute(payments.database, "UPDATE job SET name = 'reconcile_charge'")
    server.answers(200, {"data": found})
    http = http_client("provider", payments.settings.provider)
    handler = partial(jobs.reconcile_charge, payments.database, ProviderClient(http))
    assert await attempt(payments.database, ReconcileCharge, handler) is None
    await http.close()
    assert (await payments.row(payment_id)).status == status
