"""The typed payloads of notifications' jobs, and of the events it consumes."""

from uuid import UUID

from chassis.events import Event
from chassis.jobs import JobPayload

ORDERS_STREAM = "events:orders"


class SendMail(JobPayload, job="send_mail", unique=("mail_id",), max_attempts=30, time_limit=25):
    """Hand a mail to the mail server. 30 attempts, up to a minute apart, outlast a quarter of an hour of outage."""

    mail_id: UUID


WEBHOOKS_QUEUE = "webhooks"
"""The queue of deliveries. The worker has separate slots for it, so that endpoints that do not answer delay no mail."""


class DeliverWebhook(JobPayload, job="deliver_webhook", queue=WEBHOOKS_QUEUE, max_attempts=30, time_limit=30):
    """Attempt the delivery that is first in the queue of one endpoint.

    The delivery's row counts the delivery attempts. The job's own attempts count failures of the process and the
    database.
    """

    endpoint_id: UUID


class MisplacedDelivery(JobPayload, job="deliver_webhook", max_attempts=30):
    """A `DeliverWebhook` in the queue of mails. Processes of the version before migration notifications_0003 enqueue it
    there during a rolling update.
    """

    endpoint_id: UUID


class OrderEvent(Event):
    """The fields of an order's events that notifications reads."""

    order_id: UUID
    client_id: str
    customer_email: str
    amount: int
    currency: str
    reason: str | None


class OrderPlaced(OrderEvent, type="order.placed"): ...


class OrderConfirmed(OrderEvent, type="order.confirmed"): ...


class OrderCancelled(OrderEvent, type="order.cancelled"): ...
