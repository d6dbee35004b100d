"""The queue of the deliveries to one endpoint. Only the first pending delivery of a queue may be sent.

A transaction that begins or records an attempt, or that settles or repeats a delivery, first locks the endpoint's row.
So the transaction sees the changes of all earlier transactions of this kind. As long as a delivery is pending, a job
exists that looks at the delivery's queue. This job was enqueued together with the delivery or after the previous
attempt, or it is the job whose attempt is under way.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis.jobs import enqueue
from chassis.pooling import Session
from chassis.pooling.statements import load_driver_statements

from notifications.messages import DeliverWebhook

SQL = load_driver_statements("notifications.sql", package="notifications")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedEndpoint:
    """An endpoint whose row is locked. `now` is the transaction's time. `old_secret` is the secret before the last
    rotation, and None once webhooks are no longer signed with it.
    """

    id: UUID
    client_id: str
    url: str
    is_enabled: bool
    contact_email: str | None
    failing_since: datetime | None
    is_suspect: bool
    secret: str | None
    old_secret: str | None
    now: datetime


async def lock_queue(session: Session, endpoint_id: UUID) -> LockedEndpoint:
    """Lock the endpoint's row, and return the endpoint. The lock does not prevent other transactions from adding
    deliveries to the queue.
    """
    (row,) = await session.fetch(SQL["lock_endpoint"], endpoint_id=endpoint_id)
    return LockedEndpoint(**row)


async def look_when_due(session: Session, endpoint: LockedEndpoint, *, unique_key: str | None = None) -> None:
    """Enqueue a job that looks at the endpoint's queue when the first pending delivery is due, if a delivery is
    pending.
    """
    due: datetime | None = await session.fetch_value(SQL["next_attempt_at"], endpoint_id=endpoint.id)
    if due is not None:
        delay = max(0.0, (due - endpoint.now).total_seconds())
        await enqueue(session, DeliverWebhook(endpoint_id=endpoint.id), unique_key=unique_key, delay=delay)
