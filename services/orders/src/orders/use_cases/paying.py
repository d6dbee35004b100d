"""Shows an order's payment: as the payments service reports it, or as far as the order knows it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis.pooling import Session
from chassis.pooling.statements import load_driver_statements

from orders.models import OrderStatus
from orders.payments_client import Payment
from orders.schemas import Paid, PaymentView
from orders.use_cases.settling import is_unpaid

_FIND = load_driver_statements("orders.sql", package="orders")["find_payment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPayment:
    """The payment as far as the order knows it, from the events and answers of the payments service so far."""

    order_id: UUID
    payment_id: UUID
    status: Paid
    reason: str | None
    updated_at: datetime


def last_known_status(order: OrderStatus, *, paid_amount: int) -> Paid:
    """The payment's status that follows from the order. While an order is `cancelling`, its payment may still be
    captured.
    """
    if paid_amount > 0:
        return "paid"
    return "unpaid" if order is OrderStatus.CANCELLED else "pending"


async def find_payment(session: Session, order_id: UUID, *, client_id: str) -> KnownPayment | None:
    """The payment of the order with this id, or None when this client has no such order."""
    rows = await session.fetch(_FIND, order_id=order_id, client=client_id)
    if not rows:
        return None
    row = rows[0]
    return KnownPayment(
        order_id=order_id,
        payment_id=row["payment_id"],
        status=last_known_status(OrderStatus(row["status"]), paid_amount=row["paid_amount"]),
        reason=row["reason"],
        updated_at=row["updated_at"],
    )


def view_of_known(known: KnownPayment, *, degraded: bool) -> PaymentView:
    """The payment as the order knows it. `degraded` is False only if the payments service does not have the payment
    yet, because then the order knows all about it.
    """
    return PaymentView(
        order_id=known.order_id,
        status=known.status,
        detail=None,
        reason=known.reason,
        as_of=known.updated_at,
        degraded=degraded,
    )


def view_of_reported(known: KnownPayment, payment: Payment, *, now: datetime) -> PaymentView:
    """The payment as the payments service reports it at the time `now`."""
    if payment.status == "captured":
        status: Paid = "paid"
    else:
        status = "unpaid" if is_unpaid(payment.status) else "pending"
    return PaymentView(
        order_id=known.order_id,
        status=status,
        detail=payment.status,
        reason=payment.reason,
        as_of=now,
        degraded=False,
    )
