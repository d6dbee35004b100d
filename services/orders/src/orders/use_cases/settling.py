"""Applies a payment's new status to its order."""

from dataclasses import dataclass
from functools import partial
from typing import Literal
from uuid import UUID

from chassis.errors import IllegalTransition
from chassis.events import outbox
from chassis.jobs import enqueue
from chassis.logging import get_logger
from chassis.pooling import Session, after_commit, log_after_commit
from chassis.pooling.statements import load_driver_statements
from prometheus_client import Histogram

from orders.messages import STREAM, OrderCancelled, OrderConfirmed, OrderEvent, SettlePayment
from orders.models import ORDER, OrderRef, OrderStatus

log = get_logger(__name__)

_SQL = load_driver_statements("orders.sql", package="orders")

settle_seconds = Histogram(
    "order_settle_seconds",
    "Seconds from the placing of an order until it was first confirmed or cancelled. Later refunds are not counted.",
    ["outcome"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600),  # 900 is the setting `pending_limit`'s default
)

_FIRST_FINAL_VERSION = 2
"""The version of the event that confirms a pending order or cancels it. Version 1 is `order.placed`, and version 3 is
the cancellation of a confirmed order.
"""
_UNPAID = frozenset({"failed", "canceled", "refunded"})
_SETTLED = _UNPAID | {"captured"}

type PaymentStatus = Literal["created", "submitting", "submitted", "captured", "failed", "canceled", "refunded"]


@dataclass(frozen=True, slots=True)
class PaymentNews:
    """A payment's status, from an event or an answer of the payments service. `version` is 0 until the payments service
    has published the first event of the payment.
    """

    payment_id: UUID
    version: int
    status: PaymentStatus
    reason: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether money has moved, or certainly will not move. A status that is not settled changes no order."""
        return self.status in _SETTLED


@dataclass(frozen=True, slots=True, kw_only=True)
class _LockedOrder:
    """An order whose row is locked."""

    id: UUID
    client_id: str
    status: str
    amount: int
    payment_version: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _SettledOrder:
    """An order that has just got its status. `seconds` is the time from the placing of the order until this status."""

    id: UUID
    client_id: str
    customer_email: str
    status: str
    amount: int
    currency: str
    reason: str | None
    version: int
    seconds: float


def is_unpaid(payment: PaymentStatus) -> bool:
    """Whether the payment is over and the client has paid nothing, or has got the money back."""
    return payment in _UNPAID


def decide_payment(order: OrderStatus, *, seen: int, news: PaymentNews) -> OrderStatus | None:
    """The status to which a new status of the payment moves the order, or None if the order does not move. This pure
    function is the rule `apply_payment` of docs/reference/protocol.md.
    """
    if news.version <= seen:
        return None
    if news.status == "captured":
        return OrderStatus.CONFIRMED if order is OrderStatus.PENDING else None
    is_over = news.status in _UNPAID and order in {OrderStatus.PENDING, OrderStatus.CANCELLING}
    return OrderStatus.CANCELLED if is_over else None


async def apply_payment(session: Session, news: PaymentNews) -> OrderRef | None:
    """Step 11 of an order (docs/reference/protocol.md): record the payment's status and move the order. Returns the
    order, or None if nothing changed.

    Raises `LookupError` when no order has this payment.
    """
    order = await session.fetch_one(_SQL["lock_by_payment"], _LockedOrder, payment_id=news.payment_id)
    if order is None:
        raise LookupError(f"no order has payment {news.payment_id}")
    if news.version <= order.payment_version or not news.is_settled:
        return None
    target = decide_payment(OrderStatus(order.status), seen=order.payment_version, news=news)
    if target is None and order.status == OrderStatus.CANCELLED and news.status == "captured":
        # By the protocol, a payment is never captured after its order was cancelled. If a payment is captured anyway,
        # the client has paid for a cancelled order, so a job refunds the payment.
        log.error("payment_captured_after_cancellation", order_id=order.id, payment_id=news.payment_id)
        await enqueue(session, SettlePayment(order_id=order.id))
    paid_amount = order.amount if news.status == "captured" else 0
    if target is None:
        await session.fetch(
            _SQL["record_payment"], order_id=order.id, payment_version=news.version, paid_amount=paid_amount
        )
    else:
        await _move(session, order, target, news, paid_amount=paid_amount)
    return OrderRef(order.id, order.client_id)


async def _move(
    session: Session, order: _LockedOrder, target: OrderStatus, news: PaymentNews, *, paid_amount: int
) -> None:
    """Move the order to `target` by compare-and-set, and publish the event of the move with the next version."""
    reason = None if target is OrderStatus.CONFIRMED else order.reason or news.reason
    moved = await session.fetch_one(
        _SQL["settle"],
        _SettledOrder,
        order_id=order.id,
        target=target.value,
        sources=ORDER.sources(target),
        payment_version=news.version,
        paid_amount=paid_amount,
        reason=reason,
    )
    if moved is None:
        raise IllegalTransition(ORDER.name, order.status, target)
    await _publish(session, moved, OrderConfirmed if target is OrderStatus.CONFIRMED else OrderCancelled)
    if moved.version == _FIRST_FINAL_VERSION:
        after_commit(session, partial(settle_seconds.labels(target.value).observe, moved.seconds))
    log_after_commit(session, log.info, "order_moved", order_id=order.id, status=target.value, reason=reason)


async def _publish(session: Session, order: _SettledOrder, event: type[OrderEvent]) -> None:
    await outbox.publish(
        session,
        event(
            order_id=order.id,
            client_id=order.client_id,
            customer_email=order.customer_email,
            status=order.status,
            amount=order.amount,
            currency=order.currency,
            reason=order.reason,
        ),
        stream=STREAM,
        aggregate_id=str(order.id),
        aggregate_version=order.version,
    )
