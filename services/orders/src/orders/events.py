"""The events that orders consumes: those of payments, and its own, which invalidate cached orders."""

from functools import partial

from chassis.caching import Cache
from chassis.events import Received, Undeliverable
from chassis.pooling import Session, after_commit

from orders import use_cases
from orders.caches import order_key
from orders.messages import OrderEvent, PaymentEvent
from orders.models import OrderRef
from orders.schemas import OrderView
from orders.use_cases import PaymentNews


async def on_payment(cache: Cache[OrderView], session: Session, received: Received[PaymentEvent]) -> None:
    """Protocol, row 11: the order changes its status, and the next read of it does not return the old one."""
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


async def on_order(cache: Cache[OrderView], session: Session, received: Received[OrderEvent]) -> None:
    """Invalidate the cached order again: the process that changed it may have died before it invalidated the order, or
    Redis may not have answered.
    """
    order = OrderRef(received.payload.order_id, received.payload.client_id)
    after_commit(session, partial(cache.invalidate_soon, order_key(order)))
