"""Cancels an order: at a client's request, or because its payment takes too long."""

from datetime import timedelta
from uuid import UUID

from chassis.errors import ApiError, ErrorCode
from chassis.jobs import enqueue
from chassis.logging import get_logger
from chassis.pooling import Session, log_after_commit
from chassis.pooling.paging import belongs_to
from sqlalchemy import ColumnElement, func, select, update

from orders.messages import SettlePayment
from orders.models import ORDER, Order, OrderRef, OrderStatus
from orders.schemas import OrderView
from orders.use_cases.reading import find_order

log = get_logger(__name__)


async def cancel_order(session: Session, order_id: UUID, *, client_id: str) -> tuple[OrderView, bool]:
    """Step 12 of an order (docs/reference/protocol.md): move the order to `cancelling`, unless it is cancelled or
    cancelling already. Returns the order and whether this call moved it.

    Raises `ApiError` (404) when this client has no such order.
    """
    owned = select(Order.id).where(Order.id == order_id, belongs_to(Order.client_id, client_id))
    if await session.scalar(owned) is None:
        raise ApiError(ErrorCode.NOT_FOUND)
    is_new = await _begin_cancelling(session, Order.id == order_id, reason="requested") != []
    order = await find_order(session, order_id, client_id=client_id)
    assert order is not None  # noqa: S101  the order exists, since orders are never deleted
    return order, is_new


async def expire_orders(session: Session, *, after: float, batch: int) -> list[OrderRef]:
    """Step 12 of an order (docs/reference/protocol.md): cancel orders that have been pending for `after` seconds. The
    payments of these orders may be under way, so the orders become `cancelling` first, like orders that a client
    cancels.
    """
    too_old = (
        select(Order.id)
        .where(Order.status == OrderStatus.PENDING.value, Order.created_at < func.now() - timedelta(seconds=after))
        .order_by(Order.created_at)
        .limit(batch)
        .scalar_subquery()
    )
    # PostgreSQL evaluates this array once, but it might evaluate a subquery in `IN` again for each order.
    return await _begin_cancelling(
        session,
        Order.id == func.any(func.array(too_old)),
        Order.status == OrderStatus.PENDING.value,
        reason="expired",
    )


async def _begin_cancelling(session: Session, *which: ColumnElement[bool], reason: str) -> list[OrderRef]:
    moved = await session.execute(
        update(Order)
        .where(*which, Order.status.in_(ORDER.sources(OrderStatus.CANCELLING)))
        .values(status=OrderStatus.CANCELLING.value, reason=reason, updated_at=func.now(), cancelling_at=func.now())
        .returning(Order.id, Order.client_id)
    )
    orders = [OrderRef(*row) for row in moved]
    for order in orders:
        await enqueue(session, SettlePayment(order_id=order.id))
        log_after_commit(
            session, log.info, "order_moved", order_id=order.id, status=OrderStatus.CANCELLING.value, reason=reason
        )
    return orders
