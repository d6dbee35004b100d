"""The typed payloads of the orders service's jobs and events, and of the events that it consumes."""

from typing import Literal
from uuid import UUID

from chassis.events import Event
from chassis.jobs import JobPayload

STREAM = "events:orders"
PAYMENTS_STREAM = "events:payments"


class RequestPayment(JobPayload, job="request_payment", unique=("order_id",), max_attempts=50, time_limit=10):
    """Request the order's payment from the payments service. The job's 50 attempts, up to a minute apart, outlast an
    outage of half an hour.
    """

    order_id: UUID


class SettlePayment(JobPayload, job="settle_payment", unique=("order_id",), max_attempts=50, time_limit=10):
    """Request that the payments service cancels or refunds the payment of a cancelled order, so that the payment's net
    amount is zero.
    """

    order_id: UUID


class OrderEvent(Event):
    """The fields that every event of an order has. Each event has the whole state of the order, so a consumer can apply
    a later event even if it has missed an earlier event.
    """

    order_id: UUID
    client_id: str
    customer_email: str
    status: str
    amount: int
    currency: str
    reason: str | None


class OrderPlaced(OrderEvent, type="order.placed"): ...


class OrderConfirmed(OrderEvent, type="order.confirmed"): ...


class OrderCancelled(OrderEvent, type="order.cancelled"): ...


class PaymentEvent(Event):
    """The fields that the orders service reads from the events of a payment. Other fields are ignored."""

    payment_id: UUID
    order_id: UUID
    status: Literal["captured", "failed", "canceled", "refunded"]
    amount: int
    currency: str
    reason: str | None


class PaymentCaptured(PaymentEvent, type="payment.captured"): ...


class PaymentFailed(PaymentEvent, type="payment.failed"): ...


class PaymentCanceled(PaymentEvent, type="payment.canceled"): ...


class PaymentRefunded(PaymentEvent, type="payment.refunded"): ...
