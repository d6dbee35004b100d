"""The events that orders consumes: what became of its payments, and its own, to invalidate what is cached."""

from functools import partial

from chassis.caching import Cache
from chassis.events import Received, Undeliverable
from chassis.pooling import after_commit
from sqlalchemy.ext.asyncio import AsyncSession

from orders import use_cases
from orders.caches import order_key
from orders.messages import OrderEvent, PaymentEvent
from orders.models import OrderRef
from orders.schemas import OrderView
from orders.use_cases import PaymentNews


async def on_payment(cache: Cache[OrderView], session: AsyncSession, received: Received[PaymentEvent]) -> None:
    """Protocol, row 11: the order moves, and the next read of it does not see the old state."""
    payment = received.payload
    news = PaymentNews(
        payment.payment_id, version=received.aggregate_version, status=payment.status, reason=payment.reason
    )
    try:
        order = await use_cases.apply_payment(session, news)
    except LookupError as error:
        raise Undeliverable(str(error)) from error
    if order is not None:
        after_commit(session, partial(cache.invalidate_soon, order_key(order)))


async def on_order(cache: Cache[OrderView], session: AsyncSession, received: Received[OrderEvent]) -> None:
    """Invalidate an order by the event that committed with its change: once more, since whoever made the change may
    have died before it did, or Redis did not answer.
    """
    order = OrderRef(received.payload.order_id, received.payload.client_id)
    after_commit(session, partial(cache.invalidate_soon, order_key(order)))
