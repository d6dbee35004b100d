"""The queue of the deliveries to one endpoint. Only the first pending delivery of a queue may be sent.

A transaction that begins or records an attempt, or that settles or repeats a delivery, first locks the endpoint's row.
So the transaction sees the changes of all earlier transactions of this kind. As long as a delivery is pending, a job
exists that looks at the delivery's queue. This job was enqueued together with the delivery or after the previous
attempt, or it is the job whose attempt is under way.
"""

from datetime import datetime
from uuid import UUID

from chassis.jobs import enqueue
from chassis.pooling import Session
from sqlalchemy import Select, func, select

from notifications.messages import DeliverWebhook
from notifications.models import DeliveryStatus, WebhookDelivery, WebhookEndpoint


async def lock_queue(session: Session, endpoint_id: UUID) -> tuple[WebhookEndpoint, datetime]:
    """Lock the endpoint's row. Returns the endpoint and the transaction's time. The lock does not prevent other
    transactions from adding deliveries to the queue.
    """
    row = await session.execute(
        select(WebhookEndpoint, func.now())
        .where(WebhookEndpoint.id == endpoint_id)
        .with_for_update(key_share=True, of=WebhookEndpoint)
    )
    endpoint, now = row.one()
    return endpoint, now


def first_pending(endpoint_id: UUID) -> Select[WebhookDelivery]:
    """A query of the first pending delivery in the endpoint's queue. Only this delivery may be sent, so that a
    customer gets the events of an order in sequence.
    """
    return (
        select(WebhookDelivery)
        .where(WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.status == DeliveryStatus.PENDING.value)
        .order_by(WebhookDelivery.sequence)
        .limit(1)
        .execution_options(populate_existing=True)
    )


async def look_when_due(
    session: Session, first: WebhookDelivery, now: datetime, *, unique_key: str | None = None
) -> None:
    """Enqueue a job that looks at the endpoint's queue when `first`, the first pending delivery, is due."""
    delay = max(0.0, (first.next_attempt_at - now).total_seconds())
    await enqueue(session, DeliverWebhook(endpoint_id=first.endpoint_id), unique_key=unique_key, delay=delay)
