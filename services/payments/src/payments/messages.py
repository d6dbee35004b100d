"""The typed payloads of the payments service's jobs and events, and of the events that it consumes."""

from typing import Literal
from uuid import UUID

from chassis.events import Event
from chassis.jobs import JobPayload

STREAM = "events:payments"
PROVIDER_STREAM = "events:webhook-ingest"


class ChargePayment(JobPayload, job="charge_payment", unique=("payment_id",), max_attempts=50, time_limit=20):
    """Charge the payment at the provider. The job's 50 attempts, up to a minute apart, outlast an outage of half an
    hour.
    """

    payment_id: UUID


class MakeRefund(JobPayload, job="make_refund", unique=("refund_id",), max_attempts=50, time_limit=20):
    """Request a refund from the provider, with the refund's own idempotency key."""

    refund_id: UUID


class ReconcileCharge(JobPayload, job="reconcile_charge", unique=("payment_id",), max_attempts=50, time_limit=20):
    """Look the charge up at the provider. The job has as many attempts as `ChargePayment`, so it outlasts an outage
    without help from an operator.
    """

    payment_id: UUID


class ReconcileRefund(JobPayload, job="reconcile_refund", unique=("refund_id",), max_attempts=50, time_limit=20):
    """Look the refund up at the provider. The job has as many attempts as `MakeRefund`."""

    refund_id: UUID


class PaymentEvent(Event):
    """The fields that every event of a payment has."""

    payment_id: UUID
    order_id: UUID
    status: Literal["captured", "failed", "canceled", "refunded"]
    amount: int
    currency: str
    reason: str | None


class PaymentCaptured(PaymentEvent, type="payment.captured"): ...


class PaymentFailed(PaymentEvent, type="payment.failed"): ...


class PaymentCanceled(PaymentEvent, type="payment.canceled"): ...


class PaymentRefunded(PaymentEvent, type="payment.refunded"):
    refund_id: UUID


class ProviderChargeEvent(Event):
    """A charge's state as the provider reported it. `reference` is our id of the payment."""

    reference: str
    provider_id: str
    object_version: int
    amount: int
    raw_event_id: str


class ProviderChargeSucceeded(ProviderChargeEvent, type="provider.charge.succeeded"): ...


class ProviderChargeFailed(ProviderChargeEvent, type="provider.charge.failed"):
    failure_code: str | None = None


class ProviderRefundEvent(Event):
    """A refund's state as the provider reported it. `reference` is our id of the refund."""

    reference: str
    provider_id: str
    object_version: int
    amount: int
    raw_event_id: str


class ProviderRefundSucceeded(ProviderRefundEvent, type="provider.refund.succeeded"): ...


class ProviderRefundFailed(ProviderRefundEvent, type="provider.refund.failed"):
    failure_code: str | None = None
