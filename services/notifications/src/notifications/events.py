"""The handler of the events that the notifications service consumes: the events of orders."""

from chassis.events import Kinds, Received, in_order
from chassis.pooling import Session

from notifications import use_cases
from notifications.messages import OrderCancelled, OrderConfirmed, OrderEvent, OrderPlaced
from notifications.use_cases import deliveries

ORDER_EVENTS = (OrderPlaced, OrderConfirmed, OrderCancelled)

_KINDS: Kinds[OrderEvent] = Kinds(ORDER_EVENTS)


async def on_order(session: Session, received: Received[OrderEvent]) -> None:
    """Step 14 of an order (docs/reference/protocol.md): write one mail for each event, and one webhook delivery for
    each event and endpoint, in the order of the events' versions. The inbox stores an event that arrives too early
    until the order's earlier events have arrived.
    """
    last_version = await use_cases.last_version(session, received.payload.order_id)
    for event in await in_order(session, received, _KINDS, last_version=last_version):
        assert isinstance(event.payload, OrderEvent)  # noqa: S101  for the type checker: all `_KINDS` are order events
        await use_cases.write_mail(session, event.payload, event_id=event.event_id, version=event.aggregate_version)
        await deliveries.write_deliveries(
            session,
            event.payload,
            event_id=event.event_id,
            version=event.aggregate_version,
            occurred_at=event.occurred_at,
        )
