"""The typed payloads of orders' jobs and events, and of the events it consumes."""

from typing import Literal
from uuid import UUID

from chassis.events import Event
from chassis.jobs import JobPayload

STREAM = "events:orders"
PAYMENTS_STREAM = "events:payments"


class RequestPayment(JobPayload, job="request_payment", unique=("order_id",), max_attempts=50, time_limit=10):
    """Ask payments to take the order's money. 50 attempts at up to a minute: payments may be away for half an hour."""

    order_id: UUID


class SettlePayment(JobPayload, job="settle_payment", unique=("order_id",), max_attempts=50, time_limit=10):
    """Ask payments to bring the net of a cancelled order's payment to zero."""

    order_id: UUID


class OrderEvent(Event):
    """What all events of an order carry: its state, so that a consumer may jump over one it missed."""

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
    """What orders reads of a payment's events; fields it does not know are payments' own business."""

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
