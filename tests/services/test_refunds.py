"""Voids and refunds: the net of a payment comes to zero once, whatever is on its way and whoever reports it when."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
import test_payments
from captured_logs import captured_logs
from chassis.errors import (
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
    LeaseLost,
    PermanentJobError,
)
from chassis.events.delivery import Handler
from chassis.events.outbox import Event
from chassis.jobs import JobPayload, enqueue
from chassis.pooling import Session
from harness import (
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
)
from holdfast_local.ports import free_port
from overlapping import Work, overlapping, waits_or_is_done
from payments import jobs, use_cases
from payments.events import on_refund_failed, on_refund_succeeded
from payments.messages import (
    PROVIDER_STREAM,
    ChargePayment,
    MakeRefund,
    ProviderRefundFailed,
    ProviderRefundSucceeded,
    ReconcileCharge,
    ReconcileRefund,
)
from payments.models import PaymentStatus, RefundStatus
from payments.provider_client import ProviderClient
from payments.schemas import PaymentView, RequestPayment, VoidPayment
from payments.use_cases import ChargeReport, RefundReport, requests, states
from test_payments import Payments, asked_for, sent, succeeded

payments = test_payments.payments

HANDLERS: list[tuple[type[Event], Handler]] = [
    (ProviderRefundSucceeded, on_refund_succeeded),
    (ProviderRefundFailed, on_refund_failed),
]

CAPTURED, REFUNDED = (1, "payment.captured"), (2, "payment.refunded")


async def refunds(payments: Payments, payment_id: UUID) -> list[tuple[int, str]]:
    query = "SELECT n, status FROM refund WHERE payment_id = :id ORDER BY n"
    return [(row.n, row.status) for row in await rows(payments.database, query, id=payment_id)]


async def last_refund(payments: Payments) -> UUID:
    refund_id: UUID = (await one(payments.database, "SELECT id FROM refund ORDER BY n DESC LIMIT 1")).id
    return refund_id


async def refunding(payments: Payments) -> tuple[UUID, UUID]:
    """A captured payment and the refund that a void of it has asked for."""
    payment_id = await payments.captured()
    assert (await payments.void(payment_id)).status_code == 202
    return payment_id, await last_refund(payments)


async def submitting(payments: Payments) -> UUID:
    payment_id = await payments.asked()
    assert await payments.begin(payment_id) == 1
    return payment_id


async def report_refund(payments: Payments, report: RefundReport) -> bool:
    async with payments.database.transaction() as session:
        return await use_cases.apply_refund_report(session, report)


@dataclass(frozen=True, slots=True)
class Worker:
    """The handlers of payments' jobs, one attempt at a time."""

    payments: Payments
    provider: ProviderClient

    async def _attempt[P: JobPayload](self, kind: type[P], handler: Callable[..., Awaitable[None]]) -> Exception | None:
        return await attempt(self.payments.database, kind, partial(handler, self.payments.database, self.provider))

    async def charge(self) -> Exception | None:
        return await self._attempt(ChargePayment, jobs.charge_payment)

    async def refund(self) -> Exception | None:
        return await self._attempt(MakeRefund, jobs.make_refund)

    async def reconcile(self, job: ReconcileCharge | ReconcileRefund) -> Exception | None:
        """Reconcile as a sweep asks for it, with no other job around."""
        await execute(self.payments.database, "DELETE FROM job")
        async with self.payments.database.transaction() as session:
            await enqueue(session, job)
        if isinstance(job, ReconcileCharge):
            return await self._attempt(ReconcileCharge, jobs.reconcile_charge)
        return await self._attempt(ReconcileRefund, jobs.reconcile_refund)


@asynccontextmanager
async def working(payments: Payments, url: str | None = None) -> AsyncIterator[Worker]:
    http = http_client("provider", dependency(url) if url else payments.settings.provider)
    try:
        yield Worker(payments, ProviderClient(http))
    finally:
        await http.close()


def refund(status: str = "pending", identifier: str = "re_1", **more: object) -> dict[str, object]:
    return {"id": identifier, "status": status} | more


def told(refund_id: object, *, fails: bool = False, identifier: str = "re_1") -> str:
    """The provider's event about a refund, as webhook-ingest publishes it."""
    about = {
        "reference": str(refund_id),
        "provider_id": identifier,
        "object_version": 2,
        "amount": 12898,
        "raw_event_id": uuid4().hex,
    }
    event = (
        ProviderRefundFailed.model_validate(about | {"failure_code": "refund_failed"})
        if fails
        else ProviderRefundSucceeded.model_validate(about)
    )
    return envelope(event, aggregate_id=uuid4(), version=1)


async def tell(payments: Payments, *envelopes: str) -> None:
    await deliver(payments.redis, payments.database, HANDLERS, *envelopes, stream=PROVIDER_STREAM)


# Bringing the net to zero


@pytest.mark.parametrize(
    ("before", "after", "is_marked", "refunded"),
    [
        ("created", "canceled", False, 0),
        # What may be, or is, on its way to the provider is marked and neither canceled nor refunded yet.
        ("submitting", "submitting", True, 0),
        ("submitted", "submitted", True, 0),
        ("captured", "captured", True, 1),
        ("failed", "failed", False, 0),
        ("canceled", "canceled", False, 0),
        ("refunded", "refunded", False, 0),
    ],
)
async def test_a_void_does_in_each_state_what_the_protocol_says_and_no_more_when_repeated(
    payments: Payments, before: str, after: str, refunded: int, *, is_marked: bool
) -> None:
    payment_id = await payments.asked()
    await execute(payments.database, "UPDATE payment SET status = :status", status=before)
    answers = [await payments.void(payment_id) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {202}
    row = await payments.row(payment_id)
    assert (row.status, row.void) == (after, is_marked)
    assert answers[-1].json()["status"] == after
    assert await refunds(payments, payment_id) == [(1, "requested")] * refunded
    assert await job_statuses(payments.database, "make_refund") == ["ready"] * refunded
    assert await events(payments.database, payment_id) == [(1, "payment.canceled")] * (before != after)
    assert row.version == (before != after)


async def test_a_void_of_another_order_amount_or_currency_is_a_conflict_and_marks_nothing(payments: Payments) -> None:
    payment_id = await payments.captured()
    row = await payments.row(payment_id)
    for changes in ({"order_id": str(uuid4())}, {"amount": 1}, {"currency": "USD"}):
        answer = await payments.void(payment_id, **changes)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "STATE_CONFLICT"), changes
    other = await payments.void(uuid4(), order_id=str(row.order_id))
    assert other.status_code == 409
    assert not (await payments.row(payment_id)).void
    assert await count(payments.database, "refund") == 0
    assert await count(payments.database, "payment") == 1


async def test_a_void_of_another_shape_or_from_nobody_is_refused(payments: Payments) -> None:
    for changes in ({"amount": 0}, {"currency": "euro"}, {"order_id": "x"}, {"reason": "because"}):
        assert (await payments.void(uuid4(), **changes)).status_code == 422, changes
    async with payments.client_of(None) as nobody:
        assert (await nobody.post(f"/v1/payments/{uuid4()}/refund", json={})).status_code == 401
    assert await count(payments.database, "payment") == 0


@pytest.mark.parametrize("way", ["answer", "event", "reconciliation"])
async def test_a_capture_that_comes_after_the_void_is_refunded_by_itself(
    payments: Payments, server: FakeServer, way: str
) -> None:
    payment_id = await payments.asked()
    async with working(payments) as worker:
        server.answers(503)
        await worker.charge()
        await payments.void(payment_id)
        server.answers(200, {"id": "ch_1", "status": "captured"})
        if way == "answer":
            assert await worker.charge() is None
        elif way == "event":
            await payments.deliver(sent(succeeded(payment_id)))
        else:
            server.answers(200, {"data": [{"id": "ch_1", "status": "captured"}]})
            assert await worker.reconcile(ReconcileCharge(payment_id=payment_id)) is None
    assert await refunds(payments, payment_id) == [(1, "requested")]
    assert "ready" in await job_statuses(payments.database, "make_refund")
    assert await events(payments.database, payment_id) == [CAPTURED]


async def test_a_charge_that_fails_after_the_void_needs_no_refund(payments: Payments) -> None:
    payment_id = await submitting(payments)
    await payments.void(payment_id)
    await payments.report(ChargeReport(payment_id, "failed", reason="card_declined"))
    assert await events(payments.database, payment_id) == [(1, "payment.failed")]
    assert await count(payments.database, "refund") == 0


async def test_a_voided_charge_is_still_asked_after_under_its_key_until_its_outcome_is_known(
    payments: Payments, server: FakeServer
) -> None:
    payment_id = await payments.asked()
    async with working(payments) as worker:
        server.hangs()
        assert isinstance(await worker.charge(), DependencyTimeout)
        await payments.void(payment_id)
        server.answers(429)
        # Refused now; but the one that hung may yet arrive.
        assert isinstance(await worker.charge(), DependencyUnavailable)
    assert (await payments.row(payment_id)).status == "submitting"
    assert await events(payments.database, payment_id) == []
    assert {asked.headers["Idempotency-Key"] for asked in server.asked} == {f"charge:{payment_id}"}


# Two at once, in either order


type Step = Callable[[Payments, UUID], Work[object]]


def voiding(_payments: Payments, payment_id: UUID) -> Work[PaymentView]:
    async def work(session: Session) -> PaymentView:
        order_id = (await use_cases.read_payment(session, payment_id)).order_id
        command = VoidPayment(order_id=order_id, amount=12898, currency="EUR")
        return await use_cases.void_payment(session, payment_id, command)

    return work


def beginning(_payments: Payments, payment_id: UUID) -> Work[int | None]:
    return lambda session: use_cases.begin_attempt(session, payment_id)


def not_running(_payments: Payments, payment_id: UUID) -> Work[None]:
    return lambda session: use_cases.attempt_not_run(session, payment_id, 1)


def reporting(status: Literal["accepted", "captured", "failed"]) -> Step:
    def step(_payments: Payments, payment_id: UUID) -> Work[bool]:
        return lambda session: use_cases.apply_charge_report(session, ChargeReport(payment_id, status, "ch_1"))

    return step


def not_finding(_payments: Payments, payment_id: UUID) -> Work[bool]:
    return lambda session: use_cases.no_charge_found(session, payment_id)


def refund_reporting(status: Literal["accepted", "succeeded", "failed"]) -> Callable[[UUID], Work[bool]]:
    return lambda refund_id: lambda session: use_cases.apply_refund_report(session, RefundReport(refund_id, status))


async def test_a_void_before_an_attempt_prevents_it_and_one_after_it_waits_for_it(payments: Payments) -> None:
    early, late = await payments.asked(), await payments.asked()
    _, number = await overlapping(payments.database, voiding(payments, early), beginning(payments, early))
    assert number is None
    assert ((await payments.row(early)).status, await payments.attempts(early)) == ("canceled", [])
    number, view = await overlapping(payments.database, beginning(payments, late), voiding(payments, late))
    assert (number, view.status) == (1, "submitting")
    assert (await payments.row(late)).void
    assert await events(payments.database, late) == []


async def test_a_void_looks_and_moves_under_one_lock(payments: Payments, monkeypatch: pytest.MonkeyPatch) -> None:
    payment_id = await payments.asked()
    begun: list[asyncio.Task[int | None]] = []

    async def move_late(*args: Any, **values: Any) -> Any:
        begun.append(asyncio.create_task(payments.begin(payment_id)))
        await waits_or_is_done(payments.database, begun[0])
        return await states.move(*args, **values)

    monkeypatch.setattr(requests, "move", move_late)
    assert (await payments.void(payment_id)).json()["status"] == "canceled"
    assert await begun[0] is None


@pytest.mark.parametrize("is_void_first", [True, False])
async def test_a_void_while_an_attempt_is_found_not_to_have_run_cancels_once(
    payments: Payments, *, is_void_first: bool
) -> None:
    payment_id = await submitting(payments)
    void, not_run = voiding(payments, payment_id), not_running(payments, payment_id)
    if is_void_first:
        await overlapping(payments.database, void, not_run)
    else:
        await overlapping(payments.database, not_run, void)
    assert (await payments.row(payment_id)).status == "canceled"
    assert await events(payments.database, payment_id) == [(1, "payment.canceled")]
    assert await payments.begin(payment_id) is None


@pytest.mark.parametrize("is_void_first", [True, False])
@pytest.mark.parametrize("start", ["submitting", "submitted"])
async def test_a_void_while_the_capture_is_reported_refunds_once(
    payments: Payments, start: str, *, is_void_first: bool
) -> None:
    payment_id = await submitting(payments)
    if start == "submitted":
        await payments.report(ChargeReport(payment_id, "accepted", "ch_1"))
    void, capture = voiding(payments, payment_id), reporting("captured")(payments, payment_id)
    if is_void_first:
        await overlapping(payments.database, void, capture)
    else:
        await overlapping(payments.database, capture, void)
    assert ((await payments.row(payment_id)).status, (await payments.row(payment_id)).void) == ("captured", True)
    assert await refunds(payments, payment_id) == [(1, "requested")]
    assert await events(payments.database, payment_id) == [CAPTURED]


async def test_two_voids_of_what_is_captured_make_one_refund(payments: Payments) -> None:
    payment_id = await payments.captured()
    await overlapping(payments.database, voiding(payments, payment_id), voiding(payments, payment_id))
    assert await refunds(payments, payment_id) == [(1, "requested")]
    assert await job_statuses(payments.database, "make_refund") == ["ready"]


async def test_two_voids_of_what_is_unknown_leave_one_tombstone_with_one_event(payments: Payments) -> None:
    payment_id = uuid4()
    command = VoidPayment(order_id=uuid4(), amount=12898, currency="EUR")

    async def void(session: Session) -> PaymentView:
        return await use_cases.void_payment(session, payment_id, command)

    first, second = await overlapping(payments.database, void, void)
    assert first == second
    assert (first.status, first.version) == ("canceled", 1)
    assert await events(payments.database, payment_id) == [(1, "payment.canceled")]


@pytest.mark.parametrize("is_void_first", [True, False])
async def test_a_void_and_the_request_it_overtakes_end_canceled_in_either_order(
    payments: Payments, *, is_void_first: bool
) -> None:
    asked = RequestPayment.model_validate(asked_for())

    async def request(session: Session) -> object:
        return await use_cases.request_payment(session, asked)

    async def void(session: Session) -> object:
        command = VoidPayment(order_id=asked.order_id, amount=asked.amount, currency=asked.currency)
        return await use_cases.void_payment(session, asked.payment_id, command)

    steps = (void, request) if is_void_first else (request, void)
    await overlapping(payments.database, *steps)
    assert ((await payments.row(asked.payment_id)).status, await payments.begin(asked.payment_id)) == ("canceled", None)
    assert await events(payments.database, asked.payment_id) == [(1, "payment.canceled")]


@pytest.mark.parametrize("is_void_first", [True, False])
@pytest.mark.parametrize(("status", "expected"), [("succeeded", ["succeeded"]), ("failed", ["failed", "requested"])])
async def test_a_void_and_a_refund_report_at_once_do_not_wait_for_each_other(
    payments: Payments, status: Literal["succeeded", "failed"], expected: list[str], *, is_void_first: bool
) -> None:
    payment_id, refund_id = await refunding(payments)
    void, report = voiding(payments, payment_id), refund_reporting(status)(refund_id)
    if is_void_first:
        await overlapping(payments.database, void, report)
    else:
        await overlapping(payments.database, report, void)
    assert [state for _, state in await refunds(payments, payment_id)] == expected


@pytest.mark.parametrize("second", ["succeeded", "failed", "accepted"])
@pytest.mark.parametrize("first", ["succeeded", "failed"])
async def test_of_two_refund_reports_at_once_the_first_decides(
    payments: Payments, first: Literal["succeeded", "failed"], second: Literal["succeeded", "failed", "accepted"]
) -> None:
    payment_id, refund_id = await refunding(payments)
    moved = await overlapping(
        payments.database, refund_reporting(first)(refund_id), refund_reporting(second)(refund_id)
    )
    assert moved == (True, False)
    if first == "succeeded":
        assert await refunds(payments, payment_id) == [(1, "succeeded")]
        assert await events(payments.database, payment_id) == [CAPTURED, REFUNDED]
    else:
        assert await refunds(payments, payment_id) == [(1, "failed"), (2, "requested")]
        assert await events(payments.database, payment_id) == [CAPTURED]


async def test_a_charge_accepted_while_it_was_looked_for_in_vain_has_not_failed(payments: Payments) -> None:
    payment_id = await submitting(payments)
    await execute(payments.database, "UPDATE charge_attempt SET created_at = now() - interval '25 hours'")
    accept, not_found = reporting("accepted")(payments, payment_id), not_finding(payments, payment_id)
    assert await overlapping(payments.database, accept, not_found) == (True, False)
    assert (await payments.row(payment_id)).status == "submitted"


async def test_a_refund_accepted_while_it_was_looked_for_in_vain_has_not_failed(payments: Payments) -> None:
    payment_id, refund_id = await refunding(payments)
    await age_refunds(payments, "25 hours")
    accept = refund_reporting("accepted")(refund_id)
    moved = await overlapping(payments.database, accept, lambda session: use_cases.no_refund_found(session, refund_id))
    assert moved == (True, False)
    assert await refunds(payments, payment_id) == [(1, "submitted")]


async def test_whatever_happens_at_once_versions_have_no_gap_and_money_goes_back_once(payments: Payments) -> None:
    ids = [await payments.asked() for _ in range(6)]
    steps: list[Step] = [voiding, voiding, beginning, beginning, not_running]
    steps += [reporting("accepted"), reporting("captured"), reporting("captured"), reporting("failed")]
    calls = [(step, payment_id) for payment_id in ids for step in steps]
    random.Random(7).shuffle(calls)

    places = asyncio.Semaphore(8)  # fewer than the pool has

    async def run(step: Step, payment_id: UUID) -> None:
        async with places, payments.database.transaction() as session:
            await step(payments, payment_id)(session)

    await asyncio.gather(*(run(*call) for call in calls))
    for payment_id in ids:
        row = await payments.row(payment_id)
        written = await events(payments.database, payment_id)
        assert [version for version, _ in written] == list(range(1, row.version + 1))
        assert (row.status in PaymentStatus, len(written) <= 1) == (True, True)
        assert len(await refunds(payments, payment_id)) == (row.status == "captured")


# Asking the provider for a refund


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (lambda server: server.answers(500), DependencyFailed),
        (lambda server: server.answers(503), DependencyFailed),
        (FakeServer.hangs, DependencyTimeout),
        (FakeServer.resets, DependencyFailed),
        (lambda server: server.answers(409, {"error": {"code": "request_in_progress"}}), DependencyRejected),
        (lambda server: server.answers(429), DependencyUnavailable),
        (lambda server: server.answers(401), DependencyRejected),
        (lambda server: server.answers(404), DependencyRejected),
        (lambda server: server.answers(202, {"no": "refund"}), DependencyFailed),
        (lambda server: server.answers(202, refund("on the moon")), DependencyFailed),
    ],
    ids=["500", "503", "time-out", "reset", "409", "429", "401", "404", "unreadable", "unknown status"],
)
async def test_a_refund_of_unknown_outcome_is_asked_for_again_under_the_same_key(
    payments: Payments, server: FakeServer, trouble: Callable[[FakeServer], None], error: type[Exception]
) -> None:
    payment_id, refund_id = await refunding(payments)
    trouble(server)
    async with working(payments) as worker:
        assert type(await worker.refund()) is error
        assert await refunds(payments, payment_id) == [(1, "requested")]
        assert await job_statuses(payments.database, "make_refund") == ["ready"]
    server.answers(202, refund("succeeded"))
    async with working(payments) as another:  # which knows of no pause, as after the 429 has been waited out
        assert await another.refund() is None
    assert {asked.headers["Idempotency-Key"] for asked in server.asked} == {f"refund:{refund_id}"}
    assert all(asked.json == server.asked[0].json for asked in server.asked)
    assert server.asked[0].json == {"charge_reference": str(payment_id), "reference": str(refund_id), "amount": 12898}
    assert await events(payments.database, payment_id) == [CAPTURED, REFUNDED]


async def test_a_refund_that_reached_nobody_is_asked_for_again(payments: Payments) -> None:
    payment_id, _ = await refunding(payments)
    async with working(payments, f"http://127.0.0.1:{free_port()}") as worker:
        assert isinstance(await worker.refund(), DependencyUnavailable)
    assert await refunds(payments, payment_id) == [(1, "requested")]
    assert await job_statuses(payments.database, "make_refund") == ["ready"]


async def test_an_accepted_refund_is_not_a_refund_until_it_is_told_so(payments: Payments, server: FakeServer) -> None:
    payment_id, refund_id = await refunding(payments)
    server.answers(202, refund("pending"))
    async with working(payments) as worker:
        assert await worker.refund() is None
    assert await refunds(payments, payment_id) == [(1, "submitted")]
    assert await events(payments.database, payment_id) == [CAPTURED]
    await tell(payments, told(refund_id), told(refund_id), told(refund_id, fails=True))
    assert await refunds(payments, payment_id) == [(1, "succeeded")]
    assert await events(payments.database, payment_id) == [CAPTURED, REFUNDED]
    event = await one(payments.database, "SELECT payload FROM outbox WHERE type = 'payment.refunded'")
    assert (event.payload["refund_id"], event.payload["status"]) == (str(refund_id), "refunded")


async def test_news_of_a_refund_that_comes_before_its_answer_wins(payments: Payments, server: FakeServer) -> None:
    payment_id, refund_id = await refunding(payments)
    await tell(payments, told(refund_id))
    server.answers(202, refund("pending"))
    async with working(payments) as worker:
        assert await worker.refund() is None
    assert server.asked == []
    assert not await report_refund(payments, RefundReport(refund_id, "accepted", "re_1"))
    assert await refunds(payments, payment_id) == [(1, "succeeded")]
    assert await events(payments.database, payment_id) == [CAPTURED, REFUNDED]


async def test_a_worker_that_lost_its_lease_reports_no_refund(payments: Payments, server: FakeServer) -> None:
    payment_id, _ = await refunding(payments)

    async def answer_late(_request: Any) -> Any:
        await execute(payments.database, "UPDATE job SET attempt = attempt + 1")
        server.answers(202, refund("succeeded"))
        assert server.answer is not None
        return await server.answer(_request)

    server.answer = answer_late
    async with working(payments) as worker:
        assert isinstance(await worker.refund(), LeaseLost)
    assert await refunds(payments, payment_id) == [(1, "requested")]
    assert await events(payments.database, payment_id) == [CAPTURED]


@pytest.mark.parametrize(("status", "code"), [(402, "insufficient_funds"), (422, "charge_not_captured")])
async def test_a_refused_refund_is_followed_by_another_under_a_key_of_its_own(
    payments: Payments, server: FakeServer, status: int, code: str
) -> None:
    payment_id, first = await refunding(payments)
    async with working(payments) as worker:
        server.answers(status, {"error": {"code": code}})
        assert await worker.refund() is None
        assert await refunds(payments, payment_id) == [(1, "failed"), (2, "requested")]
        second = await last_refund(payments)
        server.answers(202, refund("succeeded", "re_2"))
        assert await worker.refund() is None
    assert [asked.headers["Idempotency-Key"] for asked in server.asked] == [f"refund:{first}", f"refund:{second}"]
    assert [asked.json["reference"] for asked in server.asked] == [str(first), str(second)]
    assert await refunds(payments, payment_id) == [(1, "failed"), (2, "succeeded")]
    assert await events(payments.database, payment_id) == [CAPTURED, REFUNDED]


@pytest.mark.parametrize("body", [{"error": {"code": "idempotency_key_reused"}}, "?"])
async def test_a_refusal_that_may_mean_another_payload_is_for_a_person_to_look_at(
    payments: Payments, server: FakeServer, body: object
) -> None:
    payment_id, _ = await refunding(payments)
    server.answers(422, body)
    async with working(payments) as worker:
        assert isinstance(await worker.refund(), PermanentJobError)
        assert await refunds(payments, payment_id) == [(1, "requested")]
        assert await job_statuses(payments.database, "make_refund") == ["dead"]
        charged = await payments.asked()
        assert isinstance(await worker.charge(), PermanentJobError)
    assert (await payments.row(charged)).status == "submitting"


async def test_after_three_failed_refunds_no_call_makes_a_fourth_and_each_raises_the_alarm(payments: Payments) -> None:
    payment_id, _ = await refunding(payments)
    with captured_logs() as logs:
        for _ in range(3):
            await tell(payments, told(await last_refund(payments), fails=True))
        assert len(logs.of("refund_given_up")) == 1
        # Orders stays `cancelling`, so that its sweep comes again and again.
        for _ in range(2):
            assert (await payments.void(payment_id)).json()["status"] == "captured"
    assert [line["level"] for line in logs.of("refund_given_up")] == ["error"] * 3
    assert await refunds(payments, payment_id) == [(n, "failed") for n in (1, 2, 3)]
    assert await events(payments.database, payment_id) == [CAPTURED]


async def test_a_failed_refund_that_is_told_of_again_moves_nothing_of_the_next_one(payments: Payments) -> None:
    payment_id, first = await refunding(payments)
    await tell(payments, told(first, fails=True))
    second = await last_refund(payments)
    await tell(payments, told(second), told(first, fails=True), told(first), told(second))
    assert await refunds(payments, payment_id) == [(1, "failed"), (2, "succeeded")]
    assert await events(payments.database, payment_id) == [CAPTURED, REFUNDED]


@pytest.mark.parametrize("status", list(RefundStatus))
async def test_a_report_moves_a_refund_only_where_the_protocol_lets_it(payments: Payments, status: str) -> None:
    legal = {
        "accepted": {"requested": "submitted"},
        "succeeded": {"requested": "succeeded", "submitted": "succeeded"},
        "failed": {"requested": "failed", "submitted": "failed"},
    }
    reports: tuple[Any, ...] = tuple(legal)
    for report in reports:
        _, refund_id = await refunding(payments)
        await execute(
            payments.database, "UPDATE refund SET status = :status WHERE id = :id", status=status, id=refund_id
        )
        assert await report_refund(payments, RefundReport(refund_id, report)) is (status in legal[report])
        row = await one(payments.database, "SELECT status FROM refund WHERE id = :id", id=refund_id)
        assert row.status == legal[report].get(status, status)


async def test_late_news_of_a_charge_never_overwrites_a_refund(payments: Payments) -> None:
    payment_id, refund_id = await refunding(payments)
    await tell(payments, told(refund_id))
    await payments.deliver(sent(succeeded(payment_id)), sent(test_payments.failed(payment_id)))
    row = await payments.row(payment_id)
    assert (row.status, row.version) == ("refunded", 2)
    assert await refunds(payments, payment_id) == [(1, "succeeded")]
    assert await events(payments.database, payment_id) == [CAPTURED, REFUNDED]


async def test_a_refund_that_is_not_ours_is_a_dead_letter(payments: Payments) -> None:
    unknown = uuid4()
    await tell(payments, told(unknown), told("not-a-uuid", fails=True))
    reasons = [row.reason for row in await rows(payments.database, "SELECT reason FROM dead_event ORDER BY id")]
    assert str(unknown) in reasons[0]
    assert "not-a-uuid" in reasons[1]


# What the provider does not know


async def test_a_charge_is_not_posted_once_its_key_may_soon_be_forgotten(
    payments: Payments, server: FakeServer
) -> None:
    payment_id = await payments.asked()
    server.answers(503)
    async with working(payments) as worker:
        await worker.charge()
        sent_so_far = len(server.asked)
        await age_attempts(payments, "19 hours 59 minutes")
        await worker.charge()
        assert len(server.asked) > sent_so_far
        sent_so_far = len(server.asked)
        await age_attempts(payments, "20 hours 1 minute", n=1)
        assert await worker.charge() is None
        assert len(server.asked) == sent_so_far
    assert await payments.begin(payment_id) is None
    assert (await payments.row(payment_id)).status == "submitting"


async def test_attempts_that_did_not_run_do_not_use_up_the_keys_time(payments: Payments) -> None:
    payment_id = await submitting(payments)
    await payments.not_run(payment_id, 1)
    await age_attempts(payments, "30 hours")
    assert await payments.begin(payment_id) == 2


@pytest.mark.parametrize(
    ("age", "expected"), [("1 minute", "submitting"), ("23 hours", "submitting"), ("24 hours 1 minute", "failed")]
)
async def test_not_found_proves_that_there_was_no_charge_only_when_none_can_arrive_any_more(
    payments: Payments, server: FakeServer, age: str, expected: str
) -> None:
    payment_id = await submitting(payments)
    await age_attempts(payments, age)
    server.answers(200, {"data": []})
    async with working(payments) as worker:
        assert await worker.reconcile(ReconcileCharge(payment_id=payment_id)) is None
    assert (await payments.row(payment_id)).status == expected
    assert await events(payments.database, payment_id) == [(1, "payment.failed")] * (expected == "failed")
    assert await count(payments.database, "job") == 0


async def test_a_charge_that_was_accepted_and_is_not_found_later_is_an_alarm_and_no_proof(
    payments: Payments, server: FakeServer
) -> None:
    payment_id = await submitting(payments)
    await payments.report(ChargeReport(payment_id, "accepted", "ch_1"))
    await age_attempts(payments, "2 days")
    server.answers(200, {"data": []})
    with captured_logs() as logs:
        async with working(payments) as worker:
            assert await worker.reconcile(ReconcileCharge(payment_id=payment_id)) is None
    assert logs.one("charge_missing")["payment_id"] == str(payment_id)
    assert (await payments.row(payment_id)).status == "submitted"


@pytest.mark.parametrize("trouble", [503, 404, 429])
async def test_an_answer_that_tells_nothing_of_a_charge_proves_nothing(
    payments: Payments, server: FakeServer, trouble: int
) -> None:
    payment_id = await submitting(payments)
    await age_attempts(payments, "2 days")
    server.answers(trouble, {})
    async with working(payments) as worker:
        assert await worker.reconcile(ReconcileCharge(payment_id=payment_id)) is not None
    assert (await payments.row(payment_id)).status == "submitting"


async def test_a_charge_captured_twice_is_an_alarm(payments: Payments, server: FakeServer) -> None:
    payment_id = await submitting(payments)
    server.answers(200, {"data": [{"id": f"ch_{n}", "status": "captured"} for n in (1, 2)]})
    with captured_logs() as logs:
        async with working(payments) as worker:
            assert await worker.reconcile(ReconcileCharge(payment_id=payment_id)) is None
    assert logs.one("payment_charged_twice")["charges"] == ["ch_1", "ch_2"]


async def test_a_refund_is_not_posted_once_its_key_may_soon_be_forgotten(
    payments: Payments, server: FakeServer
) -> None:
    payment_id, _ = await refunding(payments)
    await age_refunds(payments, "20 hours 1 minute")
    async with working(payments) as worker:
        assert await worker.refund() is None
    assert server.asked == []
    assert await refunds(payments, payment_id) == [(1, "requested")]


@pytest.mark.parametrize(
    ("status", "age", "expected"),
    [
        ("requested", "23 hours", ["requested"]),
        ("requested", "24 hours 1 minute", ["failed", "requested"]),
        ("submitted", "2 days", ["submitted"]),
        ("succeeded", "2 days", ["succeeded"]),
    ],
)
async def test_a_refund_that_is_not_found_is_made_anew_only_when_it_cannot_arrive_any_more(
    payments: Payments, server: FakeServer, status: str, age: str, expected: list[str]
) -> None:
    payment_id, refund_id = await refunding(payments)
    await execute(payments.database, "UPDATE refund SET status = :status", status=status)
    await age_refunds(payments, age)
    server.answers(200, {"data": []})
    with captured_logs() as logs:
        async with working(payments) as worker:
            assert await worker.reconcile(ReconcileRefund(refund_id=refund_id)) is None
    assert [state for _, state in await refunds(payments, payment_id)] == expected
    assert len(logs.of("refund_missing")) == (status == "submitted")


@pytest.mark.parametrize(
    ("found", "expected"),
    [("pending", ["submitted"]), ("succeeded", ["succeeded"]), ("failed", ["failed", "requested"])],
)
@pytest.mark.parametrize("status", ["requested", "submitted"])
async def test_reconciling_a_refund_believes_what_the_provider_has(
    payments: Payments, server: FakeServer, status: str, found: str, expected: list[str]
) -> None:
    payment_id, refund_id = await refunding(payments)
    await execute(payments.database, "UPDATE refund SET status = :status", status=status)
    server.answers(200, {"data": [refund(found)]})
    async with working(payments) as worker:
        assert await worker.reconcile(ReconcileRefund(refund_id=refund_id)) is None
    assert [state for _, state in await refunds(payments, payment_id)] == expected
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("GET", "/refunds")


async def age_attempts(payments: Payments, age: str, *, n: int | None = None) -> None:
    await execute(
        payments.database,
        "UPDATE charge_attempt SET created_at = now() - CAST(CAST(:age AS text) AS interval)"
        " WHERE n = COALESCE(CAST(:n AS bigint), n)",
        age=age,
        n=n,
    )


async def age_refunds(payments: Payments, age: str) -> None:
    await execute(
        payments.database, "UPDATE refund SET created_at = now() - CAST(CAST(:age AS text) AS interval)", age=age
    )
