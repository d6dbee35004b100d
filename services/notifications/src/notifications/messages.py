"""The typed payloads of notifications' jobs, and of the events it consumes."""

from uuid import UUID

from chassis.events import Event
from chassis.jobs import JobPayload

ORDERS_STREAM = "events:orders"


class SendMail(JobPayload, job="send_mail", unique=("mail_id",), max_attempts=30, time_limit=25):
    """Hand one mail to the mail server. 30 attempts at up to a minute: it may be away for a quarter of an hour."""

    mail_id: UUID


WEBHOOKS_QUEUE = "webhooks"
"""With places of its own in the worker: customers who do not answer keep no mail waiting."""


class DeliverWebhook(JobPayload, job="deliver_webhook", queue=WEBHOOKS_QUEUE, max_attempts=30, time_limit=30):
    """See to the first delivery in the queue of one endpoint. Attempts at a delivery are counted in its row; those of
    the job only where the process or the database failed.
    """

    endpoint_id: UUID


class MisplacedDelivery(JobPayload, job="deliver_webhook", max_attempts=30):
    """`DeliverWebhook` as processes from before notifications_0003 enqueue it, beside ours in a rolling update: on the
    queue of mails.
    """

    endpoint_id: UUID


class OrderEvent(Event):
    """What notifications reads of an order's events."""

    order_id: UUID
    client_id: str
    customer_email: str
    amount: int
    currency: str
    reason: str | None


class OrderPlaced(OrderEvent, type="order.placed"): ...


class OrderConfirmed(OrderEvent, type="order.confirmed"): ...


class OrderCancelled(OrderEvent, type="order.cancelled"): ...
