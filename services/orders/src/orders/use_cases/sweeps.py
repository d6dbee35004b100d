"""The sweep enqueues a job for each open order (pending or cancelling) that has no job."""

from datetime import timedelta

from chassis.jobs import enqueue, has_live_job
from chassis.pooling import Session
from sqlalchemy import func, select

from orders.messages import RequestPayment, SettlePayment
from orders.models import Order, OrderStatus


async def sweep(session: Session, *, stale_after: float, batch: int) -> None:
    """Step 15 of an order (docs/reference/protocol.md): enqueue a job for each open order that has not changed for
    `stale_after` seconds and has no job. A `pending` order gets the job that requests its payment, and a `cancelling`
    order the job that cancels or refunds its payment.

    Both kinds of jobs are safe to repeat at any time, because the payments service answers a repeated request with the
    payment's current status.
    """
    stale = await session.execute(
        select(Order.id, Order.status)
        .where(
            Order.status.in_((OrderStatus.PENDING.value, OrderStatus.CANCELLING.value)),
            Order.updated_at < func.now() - timedelta(seconds=stale_after),
            ~has_live_job((RequestPayment, SettlePayment), order_id=Order.id),
        )
        # The batch is chosen at random, because in a fixed order the orders that cannot move could fill every batch.
        .order_by(func.random())
        .limit(batch)
    )
    for order in stale:
        is_pending = order.status == OrderStatus.PENDING
        job = RequestPayment(order_id=order.id) if is_pending else SettlePayment(order_id=order.id)
        await enqueue(session, job)
