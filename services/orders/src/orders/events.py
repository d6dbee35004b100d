"""The handlers of the events that the orders service consumes: events of payments, and its own events. After each of
its own events, the service invalidates the cached order.
"""

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
    """Step 11 of an order (docs/reference/protocol.md): apply the payment's new status to the order, and invalidate the
    cached order.
    """
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
    """Invalidate the cached order again. The process that changed the order may have died before it invalidated the
    cached order, or Redis may not have answered.
    """
    order = OrderRef(received.payload.order_id, received.payload.client_id)
    after_commit(session, partial(cache.invalidate_soon, order_key(order)))
