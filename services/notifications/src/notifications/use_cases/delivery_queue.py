"""The queue of one endpoint's deliveries. Only its first pending delivery may be sent.

A transaction that changes a queue (begins an attempt, records one, settles or repeats a delivery) first locks the
endpoint's row, so it sees the changes of the transactions before it. As long as a delivery is pending, a job exists
that looks at its queue. It is the job enqueued with the delivery, the job enqueued after the previous attempt, or the
job whose attempt is under way.
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
    """The queue's first pending delivery. Only this one may be sent, so that customers get the events of an order in
    order.
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
    """Enqueue a job that looks at the queue when its first delivery is due."""
    delay = max(0.0, (first.next_attempt_at - now).total_seconds())
    await enqueue(session, DeliverWebhook(endpoint_id=first.endpoint_id), unique_key=unique_key, delay=delay)
