"""Moves a payment by compare-and-set on its status, and publishes the event of the move in the same transaction."""

from collections.abc import Mapping
from uuid import UUID

from chassis.events import outbox
from chassis.logging import get_logger
from chassis.pooling import Session, log_after_commit
from sqlalchemy import ColumnElement, func, select, update

from payments.messages import (
    STREAM,
    PaymentCanceled,
    PaymentCaptured,
    PaymentEvent,
    PaymentFailed,
    PaymentRefunded,
)
from payments.models import PAYMENT, Payment, PaymentStatus

log = get_logger(__name__)

_EVENTS: Mapping[PaymentStatus, type[PaymentEvent]] = {
    PaymentStatus.CAPTURED: PaymentCaptured,
    PaymentStatus.FAILED: PaymentFailed,
    PaymentStatus.CANCELED: PaymentCanceled,
    PaymentStatus.REFUNDED: PaymentRefunded,
}


async def move(
    session: Session,
    payment_id: UUID,
    target: PaymentStatus,
    values: Mapping[str, object],
    *conditions: ColumnElement[bool],
    **event_fields: object,
) -> Payment | None:
    """Move the payment to `target` and publish the event of this status, if there is such an event.

    Returns None, and changes nothing, when the payment's status does not allow the move or when one of `conditions`
    does not hold.
    """
    event = _EVENTS.get(target)
    payment = await session.scalar(
        update(Payment)
        .where(Payment.id == payment_id, Payment.status.in_(PAYMENT.sources(target)), *conditions)
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
    log_after_commit(
        session, log.info, "payment_moved", payment_id=payment.id, order_id=payment.order_id, status=payment.status
    )
    if event is not None:
        await publish(session, payment, event, **event_fields)
    return payment


async def publish(session: Session, payment: Payment, event: type[PaymentEvent], **event_fields: object) -> None:
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


async def lock(session: Session, payment_id: UUID) -> Payment | None:
    query = select(Payment).where(Payment.id == payment_id).with_for_update()
    return await session.scalar(query.execution_options(populate_existing=True))


async def read_payment(session: Session, payment_id: UUID) -> Payment:
    """The payment to which a job belongs. The payment exists, because it was committed together with the job."""
    return (await session.scalars(select(Payment).where(Payment.id == payment_id))).one()
