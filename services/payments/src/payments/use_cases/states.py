"""Moves a payment by compare-and-set on its status, and publishes the event of the move in the same transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from chassis.events import outbox
from chassis.logging import get_logger
from chassis.pooling import Session, log_after_commit
from chassis.pooling.statements import load_driver_statements

from payments.messages import (
    STREAM,
    PaymentCanceled,
    PaymentCaptured,
    PaymentEvent,
    PaymentFailed,
    PaymentRefunded,
)
from payments.models import PAYMENT, PaymentStatus

log = get_logger(__name__)

SQL = load_driver_statements("payments.sql", package="payments")

_EVENTS: Mapping[PaymentStatus, type[PaymentEvent]] = {
    PaymentStatus.CAPTURED: PaymentCaptured,
    PaymentStatus.FAILED: PaymentFailed,
    PaymentStatus.CANCELED: PaymentCanceled,
    PaymentStatus.REFUNDED: PaymentRefunded,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRow:
    """A row of the table `payment`, as the statements in `payments.sql` return it."""

    id: UUID
    order_id: UUID
    amount: int
    currency: str
    payment_method: str | None
    status: str
    void: bool
    provider_charge_id: str | None
    version: int
    reason: str | None


async def move(
    session: Session, payment_id: UUID, target: PaymentStatus, *, reason: str | None = None, **event_fields: object
) -> PaymentRow | None:
    """Move the payment to `target`, and publish the event of this status, if there is such an event.

    Returns None, and changes nothing, when the payment's status does not allow the move.
    """
    payment = await session.fetch_one(
        SQL["move"], PaymentRow, payment_id=payment_id, reason=reason, **parameters_of_move(target)
    )
    if payment is not None:
        await report_move(session, payment, **event_fields)
    return payment


def parameters_of_move(target: PaymentStatus) -> dict[str, object]:
    """The parameters of every statement that moves a payment to `target`."""
    return {"target": target.value, "sources": PAYMENT.sources(target), "events": 1 if target in _EVENTS else 0}


async def report_move(session: Session, payment: PaymentRow, **event_fields: object) -> None:
    """Log that a statement has moved the payment, and publish the event of its new status, if there is such an
    event.
    """
    log_after_commit(
        session, log.info, "payment_moved", payment_id=payment.id, order_id=payment.order_id, status=payment.status
    )
    event = _EVENTS.get(PaymentStatus(payment.status))
    if event is not None:
        await publish(session, payment, event, **event_fields)


async def publish(session: Session, payment: PaymentRow, event: type[PaymentEvent], **event_fields: object) -> None:
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


async def lock(session: Session, payment_id: UUID) -> PaymentRow | None:
    return await session.fetch_one(SQL["lock"], PaymentRow, payment_id=payment_id)


async def find_row(session: Session, payment_id: UUID) -> PaymentRow | None:
    """The payment with this id, or None when there is no such payment."""
    return await session.fetch_one(SQL["read"], PaymentRow, payment_id=payment_id)


async def read_payment(session: Session, payment_id: UUID) -> PaymentRow:
    """The payment to which a job belongs. The payment exists, because it was committed together with the job."""
    (row,) = await session.fetch(SQL["read"], payment_id=payment_id)
    return PaymentRow(**row)
