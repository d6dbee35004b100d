"""What payments does: verbs over (session, command). Each writes in the caller's transaction and calls nobody.

The states and moves are `models.PAYMENT`; the steps are those of docs/reference/protocol.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from chassis import outbox
from chassis.errors import ApiError, ErrorCode
from chassis.jobs import enqueue
from chassis.logging import get_logger
from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from payments.messages import STREAM, ChargePayment, PaymentCaptured, PaymentEvent, PaymentFailed
from payments.models import PAYMENT, AttemptOutcome, ChargeAttempt, Payment, PaymentStatus
from payments.schemas import PaymentView, RequestPayment

log = get_logger(__name__)


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


async def begin_attempt(session: AsyncSession, payment_id: UUID) -> int | None:
    """Protocol, row 4: the payment is `submitting` and a new attempt is open. Returns the attempt's number.

    None when the payment has moved on and must not be charged (again).
    """
    moved = await session.scalar(
        update(Payment)
        .where(
            Payment.id == payment_id, Payment.status.in_((PaymentStatus.CREATED.value, PaymentStatus.SUBMITTING.value))
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
    """Protocol, row 6: attempt `n` is known not to have run; with none open the payment is as it was created."""
    payment = await session.scalar(select(Payment).where(Payment.id == payment_id).with_for_update())
    assert payment is not None  # noqa: S101  its attempt refers to it
    await session.execute(
        update(ChargeAttempt)
        .where(ChargeAttempt.payment_id == payment_id, ChargeAttempt.n == n)
        .values(outcome=AttemptOutcome.NOT_RUN.value)
    )
    is_open = select(ChargeAttempt.n).where(
        ChargeAttempt.payment_id == payment_id, ChargeAttempt.outcome == AttemptOutcome.OPEN.value
    )
    await session.execute(
        update(Payment)
        .where(Payment.id == payment_id, Payment.status == PaymentStatus.SUBMITTING.value, ~is_open.exists())
        .values(status=PaymentStatus.CREATED.value, updated_at=func.now())
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
    if await _move(session, report.payment_id, target, {"provider_charge_id": charge_id, "reason": report.reason}):
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


_EVENTS: Mapping[PaymentStatus, type[PaymentEvent]] = {
    PaymentStatus.CAPTURED: PaymentCaptured,
    PaymentStatus.FAILED: PaymentFailed,
}


async def _move(
    session: AsyncSession, payment_id: UUID, target: PaymentStatus, values: Mapping[str, object]
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
        await outbox.publish(
            session,
            event(
                payment_id=payment.id,
                order_id=payment.order_id,
                status=payment.status,
                amount=payment.amount,
                currency=payment.currency,
                reason=payment.reason,
            ),
            stream=STREAM,
            aggregate_id=str(payment.id),
            aggregate_version=payment.version,
        )
    return payment


def _view(payment: Payment) -> PaymentView:
    return PaymentView.model_validate(payment, from_attributes=True)
