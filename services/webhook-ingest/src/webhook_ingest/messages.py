"""The typed payloads of webhook-ingest's job and events."""

from uuid import UUID

from chassis.events import Event
from chassis.jobs import JobPayload

STREAM = "events:webhook-ingest"


class PublishEvent(JobPayload, job="publish_event", unique=("id",), max_attempts=10, time_limit=10):
    """Publish a stored webhook as an event. `id` is the id of the webhook's row."""

    id: UUID


class ProviderObjectEvent(Event):
    """The state of a charge or a refund at the provider. `reference` is our id of the payment or of the refund."""

    reference: str
    provider_id: str
    object_version: int
    amount: int
    raw_event_id: str
    failure_code: str | None


class ChargeSucceeded(ProviderObjectEvent, type="provider.charge.succeeded"): ...


class ChargeFailed(ProviderObjectEvent, type="provider.charge.failed"): ...


class RefundSucceeded(ProviderObjectEvent, type="provider.refund.succeeded"): ...


class RefundFailed(ProviderObjectEvent, type="provider.refund.failed"): ...
