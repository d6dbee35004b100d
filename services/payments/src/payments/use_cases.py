"""What payments does: verbs over (session, command). Each writes in the caller's transaction and calls nobody.

The states and moves are `models.PAYMENT`; the steps are those of docs/reference/protocol.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from chassis import outbox
from chassis.errors import ApiError, ErrorCode
from chassis.jobs import enqueue
from chassis.logging import get_logger
from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from payments.messages import (
    STREAM,
    ChargePayment,
    MakeRefund,
    PaymentCanceled,
    PaymentCaptured,
    PaymentEvent,
    PaymentFailed,
    PaymentRefunded,
    ReconcileCharge,
    ReconcileRefund,
)
from payments.models import (
    PAYMENT,
    REFUND,
    AttemptOutcome,
    ChargeAttempt,
    Payment,
    PaymentStatus,
    Refund,
    RefundStatus,
)
from payments.schemas import PaymentView, RequestPayment, VoidPayment

log = get_logger(__name__)

# The provider keeps idempotency keys for 24 h at least. 4 h before that the last POST with a key is begun, so that none
# is still on its way when the key is forgotten.
POST_WINDOW = timedelta(hours=20)
# When nothing of a key can arrive any more: only now does "not found" prove that there was no charge.
PROOF_AFTER = timedelta(hours=24)

_OPEN = (PaymentStatus.CREATED, PaymentStatus.SUBMITTING, PaymentStatus.SUBMITTED)

MAX_REFUNDS = 3  # rows, each with a key of its own; then somebody has to look


async def request_payment(session: AsyncSession, command: RequestPayment) -> tuple[PaymentView, bool]:
    """Protocol, row 3: the payment and its job, unless it is there already. Returns it and whether it is new.

    Raises `ApiError` (409) when the order has another payment, or this payment another amount.
    """
    inserted = await session.scalar(
        upsert(Payment)
        .values(
            id=command.payment_id,
            order_id=command.order_id,
            amount=command.amount,
            currency=command.currency,
            payment_method=command.payment_method,
        )
        .on_conflict_do_nothing()
        .returning(Payment)
    )
    if inserted is not None:
        await enqueue(session, ChargePayment(payment_id=inserted.id), unique_key=str(inserted.id))
        log.info("payment_requested", payment_id=inserted.id, order_id=inserted.order_id, amount=inserted.amount)
        return _view(inserted), True
    payment = await session.get(Payment, command.payment_id)
    asked = (command.order_id, command.amount, command.currency)
    if payment is None or (payment.order_id, payment.amount, payment.currency) != asked:
        raise ApiError(ErrorCode.STATE_CONFLICT, "This order has another payment, or this payment another amount.")
    return _view(payment), False


async def find_payment(session: AsyncSession, payment_id: UUID) -> PaymentView | None:
    payment = await session.get(Payment, payment_id)
    return None if payment is None else _view(payment)


async def read_payment(session: AsyncSession, payment_id: UUID) -> Payment:
    """The payment that a job is about; it exists, since the job committed with it."""
    return (await session.scalars(select(Payment).where(Payment.id == payment_id))).one()


async def void_payment(session: AsyncSession, payment_id: UUID, command: VoidPayment) -> PaymentView:
    """Protocol, row 12b: bring the payment's net to zero. Repeating it changes nothing more.

    A payment that is not known yet becomes a tombstone: the request that may still be on its way finds it. One that may
    be on its way to the provider is only marked, since asking for a refund of what is not captured proves nothing.
    """
    if (tombstone := await _bury(session, payment_id, command)) is not None:
        return _view(tombstone)
    payment = await _lock(session, payment_id)
    if payment is None:
        raise ApiError(ErrorCode.STATE_CONFLICT, "This order has another payment.")
    status = PaymentStatus(payment.status)
    if status is PaymentStatus.CREATED:
        canceled = await _move(session, payment_id, PaymentStatus.CANCELED, {"reason": "voided"})
        return _view(canceled or payment)
    if status in {PaymentStatus.SUBMITTING, PaymentStatus.SUBMITTED, PaymentStatus.CAPTURED}:
        await session.execute(update(Payment).where(Payment.id == payment_id).values(void=True))
        if status is PaymentStatus.CAPTURED:
            await _request_refund(session, payment)
    return _view(payment)


async def _bury(session: AsyncSession, payment_id: UUID, command: VoidPayment) -> Payment | None:
    tombstone = await session.scalar(
        upsert(Payment)
        .values(
            id=payment_id,
            order_id=command.order_id,
            amount=command.amount,
            currency=command.currency,
            status=PaymentStatus.CANCELED.value,
            reason="voided",
            version=1,
        )
        .on_conflict_do_nothing()
        .returning(Payment)
    )
    if tombstone is not None:
        await _publish(session, tombstone, PaymentCanceled)
    return tombstone


async def begin_attempt(session: AsyncSession, payment_id: UUID) -> int | None:
    """Protocol, row 4: the payment is `submitting` and a new attempt is open. Returns the attempt's number.

    None when the payment has moved on and must not be charged (again), or when its key may soon be forgotten.
    """
    moved = await session.scalar(
        update(Payment)
        .where(
            Payment.id == payment_id,
            Payment.status.in_((PaymentStatus.CREATED.value, PaymentStatus.SUBMITTING.value)),
            ~_has_open_attempt(payment_id, older_than=POST_WINDOW),
        )
        .values(status=PaymentStatus.SUBMITTING.value, updated_at=func.now())
        .returning(Payment.id)
    )
    if moved is None:
        return None
    # The update above holds the payment's row lock, so that no other attempt takes the same number.
    number = select(func.coalesce(func.max(ChargeAttempt.n), 0) + 1).where(ChargeAttempt.payment_id == payment_id)
    return await session.scalar(
        insert(ChargeAttempt).values(payment_id=payment_id, n=number.scalar_subquery()).returning(ChargeAttempt.n)
    )


async def attempt_not_run(session: AsyncSession, payment_id: UUID, n: int) -> None:
    """Protocol, row 6: attempt `n` is known not to have run. With none open the payment is as it was created, or, when
    it is to be void, canceled.
    """
    payment = await _lock(session, payment_id)
    assert payment is not None  # noqa: S101  its attempt refers to it
    await session.execute(
        update(ChargeAttempt)
        .where(ChargeAttempt.payment_id == payment_id, ChargeAttempt.n == n)
        .values(outcome=AttemptOutcome.NOT_RUN.value)
    )
    is_open = await session.scalar(select(_has_open_attempt(payment_id)))
    if payment.status != PaymentStatus.SUBMITTING or is_open:
        return
    if payment.void:
        await _move(session, payment_id, PaymentStatus.CANCELED, {"reason": "voided"})
    else:
        await _move(session, payment_id, PaymentStatus.CREATED, {})


def _has_open_attempt(
    payment_id: UUID | InstrumentedAttribute[UUID], *, older_than: timedelta = timedelta(0)
) -> ColumnElement[bool]:
    return (
        select(ChargeAttempt.n)
        .where(
            ChargeAttempt.payment_id == payment_id,
            ChargeAttempt.outcome == AttemptOutcome.OPEN.value,
            ChargeAttempt.created_at <= func.now() - older_than,
        )
        .exists()
    )


@dataclass(frozen=True, slots=True)
class ChargeReport:
    """What became of a charge, wherever that was learned: an answer, an event, or asking."""

    payment_id: UUID
    status: Literal["accepted", "captured", "failed"]
    provider_charge_id: str | None = None
    reason: str | None = None


async def apply_charge_report(session: AsyncSession, report: ChargeReport) -> bool:
    """Protocol, row 5: the one function for the HTTP answer, the event and reconciliation. Whether it changed a state.

    News that comes late finds no row to move and only fills in the provider's id. Raises `LookupError` for a payment
    that is not ours.
    """
    target = {
        "accepted": PaymentStatus.SUBMITTED,
        "captured": PaymentStatus.CAPTURED,
        "failed": PaymentStatus.FAILED,
    }[report.status]
    charge_id = func.coalesce(Payment.provider_charge_id, report.provider_charge_id)
    moved = await _move(session, report.payment_id, target, {"provider_charge_id": charge_id, "reason": report.reason})
    if moved is not None:
        if moved.void and target is PaymentStatus.CAPTURED:
            await _request_refund(session, moved)
        return True
    known = await session.scalar(
        update(Payment)
        .where(Payment.id == report.payment_id)
        .values(provider_charge_id=charge_id)
        .returning(Payment.id)
    )
    if known is None:
        raise LookupError(f"there is no payment {report.payment_id}")
    return False


async def no_charge_found(session: AsyncSession, payment_id: UUID) -> bool:
    """Protocol, row 16: the provider knows no charge. A proof only once no POST can arrive any more; whether it is."""
    if await session.scalar(select(_has_open_attempt(payment_id, older_than=PROOF_AFTER))):
        return await apply_charge_report(session, ChargeReport(payment_id, "failed", reason="never_arrived"))
    return False


async def _request_refund(session: AsyncSession, payment: Payment) -> None:
    """A new refund with a key of its own, unless one is alive or done already."""
    number = select(func.count() + 1).select_from(Refund).where(Refund.payment_id == payment.id)
    refund_id = await session.scalar(
        upsert(Refund)
        .values(payment_id=payment.id, n=number.scalar_subquery(), amount=payment.amount)
        .on_conflict_do_nothing()
        .returning(Refund.id)
    )
    if refund_id is not None:
        await enqueue(session, MakeRefund(refund_id=refund_id), unique_key=str(refund_id))
        log.info("refund_requested", payment_id=payment.id, refund_id=refund_id, amount=payment.amount)


async def read_refund(session: AsyncSession, refund_id: UUID) -> Refund:
    """The refund that a job is about; it exists, since the job committed with it."""
    return (await session.scalars(select(Refund).where(Refund.id == refund_id))).one()


@dataclass(frozen=True, slots=True)
class RefundReport:
    """What became of a refund, wherever that was learned."""

    refund_id: UUID
    status: Literal["accepted", "succeeded", "failed"]
    provider_refund_id: str | None = None
    reason: str | None = None


async def apply_refund_report(session: AsyncSession, report: RefundReport) -> bool:
    """Protocol, row 13. Whether it changed a state. Raises `LookupError` for a refund that is not ours."""
    target = {
        "accepted": RefundStatus.SUBMITTED,
        "succeeded": RefundStatus.SUCCEEDED,
        "failed": RefundStatus.FAILED,
    }[report.status]
    refund = await session.scalar(
        update(Refund)
        .where(Refund.id == report.refund_id, Refund.status.in_(REFUND.sources(target)))
        .values(
            status=target.value,
            provider_refund_id=func.coalesce(Refund.provider_refund_id, report.provider_refund_id),
            reason=report.reason,
            updated_at=func.now(),
        )
        .returning(Refund)
        .execution_options(populate_existing=True)
    )
    if refund is None:
        await _require_refund(session, report.refund_id)
        return False
    log.info("refund_moved", refund_id=refund.id, payment_id=refund.payment_id, status=target.value)
    if target is RefundStatus.SUCCEEDED:
        await _move(session, refund.payment_id, PaymentStatus.REFUNDED, {}, refund_id=refund.id)
    elif target is RefundStatus.FAILED:
        await _refund_again(session, refund)
    return True


async def _require_refund(session: AsyncSession, refund_id: UUID) -> None:
    if await session.get(Refund, refund_id) is None:
        raise LookupError(f"there is no refund {refund_id}")


async def _refund_again(session: AsyncSession, failed: Refund) -> None:
    if failed.n >= MAX_REFUNDS:
        log.error("refund_given_up", payment_id=failed.payment_id, refunds=failed.n, reason=failed.reason)
        return
    await _request_refund(session, await read_payment(session, failed.payment_id))


async def sweep(session: AsyncSession, *, stale_after: float, batch: int) -> None:
    """Protocol, rows 15 and 16, from state: whatever is open and has not changed for `stale_after` seconds gets a job.

    Charges that may still be posted are posted again, with the same key; of the others the provider is asked.
    """
    stale_since = func.now() - timedelta(seconds=stale_after)
    await _sweep_payments(session, is_stale=Payment.updated_at < stale_since, batch=batch)
    await _sweep_refunds(session, is_stale=Refund.updated_at < stale_since, batch=batch)


async def _sweep_payments(session: AsyncSession, *, is_stale: ColumnElement[bool], batch: int) -> None:
    payments = await session.execute(
        select(Payment.id, Payment.status, _has_open_attempt(Payment.id, older_than=POST_WINDOW).label("is_late"))
        .where(
            Payment.updated_at < is_stale,
            Payment.status.in_(
                [PaymentStatus.CREATED.value, PaymentStatus.SUBMITTING.value, PaymentStatus.SUBMITTED.value]
            ),
        )
        .order_by(Payment.updated_at)
        .limit(batch)
    )
    for payment in payments:
        must_ask = payment.status == PaymentStatus.SUBMITTED or payment.is_late
        kind = ReconcileCharge if must_ask else ChargePayment
        await enqueue(session, kind(payment_id=payment.id), unique_key=str(payment.id))


async def _sweep_refunds(session: AsyncSession, *, is_stale: ColumnElement[bool], batch: int) -> None:
    refunds = await session.execute(
        select(Refund.id, Refund.status)
        .where(
            is_stale,
            Refund.status.in_([RefundStatus.REQUESTED.value, RefundStatus.SUBMITTED.value]),
        )
        .order_by(Refund.updated_at)
        .limit(batch)
    )
    for refund in refunds:
        kind = MakeRefund if refund.status == RefundStatus.REQUESTED else ReconcileRefund
        await enqueue(session, kind(refund_id=refund.id), unique_key=str(refund.id))


_EVENTS: Mapping[PaymentStatus, type[PaymentEvent]] = {
    PaymentStatus.CAPTURED: PaymentCaptured,
    PaymentStatus.FAILED: PaymentFailed,
    PaymentStatus.CANCELED: PaymentCanceled,
    PaymentStatus.REFUNDED: PaymentRefunded,
}


async def _lock(session: AsyncSession, payment_id: UUID) -> Payment | None:
    query = select(Payment).where(Payment.id == payment_id).with_for_update()
    return await session.scalar(query.execution_options(populate_existing=True))


async def _move(
    session: AsyncSession,
    payment_id: UUID,
    target: PaymentStatus,
    values: Mapping[str, object],
    **event_fields: object,
) -> Payment | None:
    """Compare-and-set on the state, and the event that tells of it if there is one; None when it may not move there."""
    event = _EVENTS.get(target)
    payment = await session.scalar(
        update(Payment)
        .where(Payment.id == payment_id, Payment.status.in_(PAYMENT.sources(target)))
        .values(
            {
                **values,
                "status": target.value,
                "version": Payment.version + (1 if event else 0),
                "updated_at": func.now(),
            }
        )
        .returning(Payment)
        .execution_options(populate_existing=True)
    )
    if payment is None:
        return None
    log.info("payment_moved", payment_id=payment.id, order_id=payment.order_id, status=payment.status)
    if event is not None:
        await _publish(session, payment, event, **event_fields)
    return payment


async def _publish(session: AsyncSession, payment: Payment, event: type[PaymentEvent], **event_fields: object) -> None:
    fields = {
        "payment_id": payment.id,
        "order_id": payment.order_id,
        "status": payment.status,
        "amount": payment.amount,
        "currency": payment.currency,
        "reason": payment.reason,
        **event_fields,
    }
    await outbox.publish(
        session,
        event.model_validate(fields),
        stream=STREAM,
        aggregate_id=str(payment.id),
        aggregate_version=payment.version,
    )


def _view(payment: Payment) -> PaymentView:
    return PaymentView.model_validate(payment, from_attributes=True)
