"""Deliveries of webhooks: they are written for each event, listed for a client, and repeated at a client's request."""

from datetime import datetime
from uuid import UUID

from chassis.errors import ApiError, ErrorCode
from chassis.jobs import enqueue
from chassis.pooling import Session
from chassis.pooling.paging import belongs_to, newest_of
from chassis.pooling.statements import load_driver_statements
from chassis.telemetry import current_traceparent
from pydantic import BaseModel
from sqlalchemy import func, select, text, update

from notifications.messages import DeliverWebhook, OrderEvent
from notifications.models import WEBHOOK_DELIVERY, DeliveryStatus, WebhookDelivery
from notifications.schemas import DeliveryPage, DeliveryView, Status
from notifications.use_cases.delivery_queue import lock_queue

_WRITE = load_driver_statements("notifications.sql", package="notifications")["write_deliveries"]
_NEXT_IN_SEQUENCE = text("SELECT nextval(pg_get_serial_sequence('webhook_delivery', 'sequence'))")


class _Data(BaseModel):
    order_id: UUID
    version: int
    amount: int
    currency: str
    reason: str | None


class _Body(BaseModel):
    """The body of a webhook to a customer: the payload of Standard Webhooks, with the event's id and without mail
    addresses.
    """

    id: UUID
    type: str
    timestamp: datetime
    data: _Data


async def write_deliveries(
    session: Session, event: OrderEvent, *, event_id: UUID, version: int, occurred_at: datetime
) -> None:
    """Step 14 of an order (docs/reference/protocol.md): write a delivery, and its job, for each of the client's
    endpoints that subscribes to this event.
    """
    data = _Data(version=version, **event.model_dump(include=_Data.model_fields.keys() - {"version"}))
    body = _Body(id=event_id, type=event.options.type, timestamp=occurred_at, data=data).model_dump_json()
    written = await session.fetch(
        _WRITE,
        client_id=event.client_id,
        event_id=event_id,
        event_type=event.options.type,
        order_id=event.order_id,
        body=body,
        traceparent=current_traceparent(),
    )
    for row in written:
        # This job has no unique key. With a unique key, no job would be enqueued if another job for the endpoint waits
        # already. A worker could then claim the waiting job just before this transaction commits, and that job would
        # miss the delivery.
        await enqueue(session, DeliverWebhook(endpoint_id=row["endpoint_id"]))


async def list_deliveries(
    session: Session,
    *,
    client_id: str,
    endpoint_id: UUID | None,
    status: Status | None,
    limit: int,
    cursor: UUID | None,
) -> DeliveryPage:
    """A client's deliveries, newest first. The cursor is the last id of the previous page."""
    which = [] if endpoint_id is None else [WebhookDelivery.endpoint_id == endpoint_id]
    query = newest_of(
        WebhookDelivery,
        WebhookDelivery.client_id,
        client_id,
        *which,
        before=cursor,
        limit=limit + 1,
        state=None if status is None else (WebhookDelivery.status, status),
    )
    found = list(await session.scalars(query))
    shown = found[:limit]
    return DeliveryPage(
        items=[_view(delivery) for delivery in shown], next_cursor=shown[-1].id if len(found) > limit else None
    )


async def find_delivery(session: Session, delivery_id: UUID, *, client_id: str) -> DeliveryView:
    """The delivery with this id. Raises `ApiError` (404) if the client has no such delivery."""
    return _view(await _own(session, delivery_id, client_id))


async def redeliver(session: Session, delivery_id: UUID, *, client_id: str) -> DeliveryView:
    """Put a dead delivery at the end of its endpoint's queue. The delivery keeps its id, and its attempts count from 0
    again.

    A pending delivery stays unchanged. Raises `ApiError`: 404 if the client has no such delivery; 409 when the delivery
    is neither dead nor pending, or when its endpoint is disabled.
    """
    found = await _own(session, delivery_id, client_id)
    endpoint = await lock_queue(session, found.endpoint_id)
    if not endpoint.is_enabled:
        raise ApiError(ErrorCode.STATE_CONFLICT, "The endpoint is disabled.")
    pending = DeliveryStatus.PENDING
    moved = await session.scalar(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.status.in_(WEBHOOK_DELIVERY.sources(pending)))
        .values(
            status=pending.value,
            sequence=await session.scalar(_NEXT_IN_SEQUENCE),
            attempts=0,
            next_attempt_at=func.now(),
            settled_at=None,
        )
        .returning(WebhookDelivery)
        .execution_options(populate_existing=True)
    )
    if moved is not None:
        await enqueue(session, DeliverWebhook(endpoint_id=endpoint.id))
        return _view(moved)
    unmoved = await _own(session, delivery_id, client_id)
    if unmoved.status != pending:
        raise ApiError(ErrorCode.STATE_CONFLICT, f"The delivery is {unmoved.status}, not dead.")
    return _view(unmoved)


async def _own(session: Session, delivery_id: UUID, client_id: str) -> WebhookDelivery:
    query = select(WebhookDelivery).where(
        WebhookDelivery.id == delivery_id, belongs_to(WebhookDelivery.client_id, client_id)
    )
    delivery = (await session.scalars(query.execution_options(populate_existing=True))).one_or_none()
    if delivery is None:
        raise ApiError(ErrorCode.NOT_FOUND)
    return delivery


def _view(delivery: WebhookDelivery) -> DeliveryView:
    fields = {name: getattr(delivery, name) for name in DeliveryView.model_fields if name != "event"}
    is_pending = delivery.status == DeliveryStatus.PENDING
    return DeliveryView.model_validate(
        fields | {"event": delivery.event_type, "next_attempt_at": delivery.next_attempt_at if is_pending else None}
    )
