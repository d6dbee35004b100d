"""Sweeps: enqueue a job for each pending mail or delivery that has no job."""

from datetime import timedelta

from chassis.jobs import enqueue, has_live_job
from chassis.pooling import Session
from sqlalchemy import func, select

from notifications.messages import DeliverWebhook, SendMail
from notifications.models import DeliveryStatus, Mail, MailStatus, WebhookDelivery


async def sweep(session: Session, *, stale_after: float, batch: int) -> None:
    """Step 15 of an order (docs/reference/protocol.md): enqueue jobs for pending mails and deliveries that have no job,
    because their jobs used up all attempts in a long outage.
    """
    stale_since = func.now() - timedelta(seconds=stale_after)
    mails = await session.scalars(
        select(Mail.id)
        .where(
            Mail.status == MailStatus.PENDING.value,
            Mail.created_at < stale_since,
            ~has_live_job([SendMail], mail_id=Mail.id),
        )
        # The batch is chosen at random, because in a fixed order mails that cannot be sent could fill every batch.
        .order_by(func.random())
        .limit(batch)
    )
    for mail_id in mails:
        await enqueue(session, SendMail(mail_id=mail_id))
    endpoints = await session.scalars(
        select(WebhookDelivery.endpoint_id)
        .where(
            WebhookDelivery.status == DeliveryStatus.PENDING.value,
            WebhookDelivery.next_attempt_at < stale_since,
            ~has_live_job([DeliverWebhook], endpoint_id=WebhookDelivery.endpoint_id),
        )
        .distinct()
        .limit(batch)
    )
    for endpoint_id in endpoints:
        await enqueue(session, DeliverWebhook(endpoint_id=endpoint_id), unique_key=str(endpoint_id))
