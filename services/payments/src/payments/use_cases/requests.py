"""Requests of other services: make a payment, or bring a payment's net amount to zero."""

from uuid import UUID

from chassis.errors import ApiError, ErrorCode
from chassis.jobs import enqueue
from chassis.logging import get_logger
from chassis.pooling import Session, log_after_commit
from sqlalchemy import update

from payments.messages import ChargePayment, PaymentCanceled
from payments.models import Payment, PaymentStatus
from payments.schemas import PaymentView, RequestPayment, VoidPayment
from payments.use_cases.refunds import request_refund
from payments.use_cases.states import SQL, PaymentRow, find_row, lock, move, publish

log = get_logger(__name__)


async def request_payment(session: Session, command: RequestPayment) -> tuple[PaymentView, bool]:
    """Step 3 of an order (docs/reference/protocol.md): write the payment and its job, unless they exist. Returns the
    payment and whether it is new.

    Raises `ApiError` (409) when the order has another payment, or when this payment has another amount.
    """
    inserted = await session.fetch_one(
        SQL["request"],
        PaymentRow,
        payment_id=command.payment_id,
        order_id=command.order_id,
        amount=command.amount,
        currency=command.currency,
        payment_method=command.payment_method,
    )
    if inserted is not None:
        await enqueue(session, ChargePayment(payment_id=inserted.id))
        log_after_commit(
            session,
            log.info,
            "payment_requested",
            payment_id=inserted.id,
            order_id=inserted.order_id,
            amount=inserted.amount,
        )
        return _view(inserted), True
    payment = _require_same(await find_row(session, command.payment_id), command)
    return _view(payment), False


async def find_payment(session: Session, payment_id: UUID) -> PaymentView | None:
    payment = await find_row(session, payment_id)
    return None if payment is None else _view(payment)


async def void_payment(session: Session, payment_id: UUID, command: VoidPayment) -> PaymentView:
    """Step 12b of an order (docs/reference/protocol.md): bring the payment's net amount to zero. The call is safe to
    repeat.

    A payment that was not requested yet is stored as `canceled` (a tombstone), so that a later request of this payment
    charges nothing. A payment whose charge may be under way is only marked as void: its refund is requested once the
    payment is captured. Raises `ApiError` (409) when the order has another payment, or when this payment has another
    amount.
    """
    if (tombstone := await _bury(session, payment_id, command)) is not None:
        return _view(tombstone)
    payment = _require_same(await lock(session, payment_id), command)
    status = PaymentStatus(payment.status)
    if status is PaymentStatus.CREATED:
        canceled = await move(session, payment_id, PaymentStatus.CANCELED, reason="voided")
        return _view(canceled or payment)
    if status in {PaymentStatus.SUBMITTING, PaymentStatus.SUBMITTED, PaymentStatus.CAPTURED}:
        await session.execute(update(Payment).where(Payment.id == payment_id).values(void=True))
        if status is PaymentStatus.CAPTURED:
            await request_refund(session, payment)
    return _view(payment)


async def _bury(session: Session, payment_id: UUID, command: VoidPayment) -> PaymentRow | None:
    tombstone = await session.fetch_one(
        SQL["bury"],
        PaymentRow,
        payment_id=payment_id,
        order_id=command.order_id,
        amount=command.amount,
        currency=command.currency,
    )
    if tombstone is not None:
        await publish(session, tombstone, PaymentCanceled)
    return tombstone


def _require_same(payment: PaymentRow | None, command: RequestPayment | VoidPayment) -> PaymentRow:
    asked = (command.order_id, command.amount, command.currency)
    if payment is None or (payment.order_id, payment.amount, payment.currency) != asked:
        raise ApiError(ErrorCode.STATE_CONFLICT, "The order has another payment, or the payment has another amount.")
    return payment


def _view(payment: PaymentRow) -> PaymentView:
    return PaymentView.model_validate(payment, from_attributes=True)
