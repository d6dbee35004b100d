"""The sweep enqueues a job for each open order that has none."""

from datetime import timedelta

from chassis.jobs import enqueue, has_live_job
from chassis.pooling import Session
from sqlalchemy import func, select

from orders.messages import RequestPayment, SettlePayment
from orders.models import Order, OrderStatus


async def sweep(session: Session, *, stale_after: float, batch: int) -> None:
    """Protocol, row 15: enqueue a job for each open order that has not changed for `stale_after` seconds and has no
    job. The order's state decides which job.

    Both kinds of job are safe to repeat at any time, because payments answers a repeated request with the payment's
    current status.
    """
    stale = await session.execute(
        select(Order.id, Order.status)
        .where(
            Order.status.in_((OrderStatus.PENDING.value, OrderStatus.CANCELLING.value)),
            Order.updated_at < func.now() - timedelta(seconds=stale_after),
            ~has_live_job((RequestPayment, SettlePayment), order_id=Order.id),
        )
        .order_by(func.random())  # in a fixed order, orders that cannot move could fill every batch
        .limit(batch)
    )
    for order in stale:
        is_pending = order.status == OrderStatus.PENDING
        job = RequestPayment(order_id=order.id) if is_pending else SettlePayment(order_id=order.id)
        await enqueue(session, job)
