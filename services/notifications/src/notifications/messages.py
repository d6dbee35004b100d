"""The typed payloads of the notifications service's jobs, and of the events that it consumes."""

from uuid import UUID

from chassis.events import Event
from chassis.jobs import JobPayload

ORDERS_STREAM = "events:orders"


class SendMail(JobPayload, job="send_mail", unique=("mail_id",), max_attempts=30, time_limit=25):
    """Hand a mail to the mail server. The job's 30 attempts, up to a minute apart, outlast an outage of a quarter of an
    hour.
    """

    mail_id: UUID


WEBHOOKS_QUEUE = "webhooks"
"""The queue of the jobs that deliver webhooks. The worker runs these jobs and those that send mails in separate slots,
so an endpoint that does not answer cannot delay a mail.
"""


class DeliverWebhook(JobPayload, job="deliver_webhook", queue=WEBHOOKS_QUEUE, max_attempts=30, time_limit=30):
    """Attempt the delivery that is first in the queue of one endpoint.

    The delivery's row counts the delivery attempts. The job's own attempts count failures of the process and the
    database.
    """

    endpoint_id: UUID


class MisplacedDelivery(JobPayload, job="deliver_webhook", max_attempts=30):
    """A job `deliver_webhook` in the queue of mails. During a rolling update, processes of the version before migration
    notifications_0003 still put such jobs into that queue.
    """

    endpoint_id: UUID


class OrderEvent(Event):
    """The fields that the notifications service reads from the events of an order."""

    order_id: UUID
    client_id: str
    customer_email: str
    amount: int
    currency: str
    reason: str | None


class OrderPlaced(OrderEvent, type="order.placed"): ...


class OrderConfirmed(OrderEvent, type="order.confirmed"): ...


class OrderCancelled(OrderEvent, type="order.cancelled"): ...
