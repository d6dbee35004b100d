"""Everything the oracle knows, as rows of one moment; ids are strings, amounts integer minor units."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

SERVICES = ("orders", "payments", "notifications", "webhook-ingest")

ORDERS_STREAM = "events:orders"
PAYMENTS_STREAM = "events:payments"
WEBHOOKS_STREAM = "events:webhook-ingest"

CONSUMERS: Mapping[str, str] = {
    ORDERS_STREAM: "notifications",
    PAYMENTS_STREAM: "orders",
    WEBHOOKS_STREAM: "payments",
}
"""The service that each stream's events have to reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    id: str
    client_id: str
    idempotency_key: str
    payment_id: str
    status: str
    amount: int
    currency: str
    paid_amount: int
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What a client was answered under its idempotency key; `order_id` is None when the body names none."""

    client: str
    key: str
    order_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    id: str
    order_id: str
    amount: int
    currency: str
    status: str
    provider_charge_id: str | None
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """A webhook as it was stored; `event_id` is the provider's."""

    id: str
    event_id: str
    status: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """What notifications meant to send; `event_id` is the local part of the Message-ID. A notice to a client is about
    no order, and has no version.
    """

    event_id: str
    order_id: str | None
    version: int | None
    client_id: str
    event_type: str
    status: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a client wants webhooks; `events` are the types that it listens to. A deleted one is not enabled."""

    id: str
    client_id: str
    url: str
    events: tuple[str, ...]
    is_enabled: bool
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event for an endpoint; `id` is the webhook id. `sequence` is its place in the endpoint's queue."""

    id: str
    endpoint_id: str
    event_id: str
    status: str
    sequence: int
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedWebhook:
    """An attempt whose signature the customer verified; `is_accepted`: it answered 2xx."""

    webhook_id: str
    event_id: str | None
    is_accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that is due, running or dead; a completed one leaves no row."""

    id: str
    name: str
    status: str
    attempt: int
    run_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEvent:
    event_id: str
    stream: str
    type: str
    aggregate_id: str
    aggregate_version: int
    occurred_at: datetime
    published_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEvent:
    """An event that arrived; `held` until the ones before it do."""

    event_id: str
    status: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEvent:
    """An event that its consumer could not handle; `event_id` is None when not even that could be read."""

    id: str
    event_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanics:
    """The tables that every service's database has."""

    jobs: tuple[Job, ...] = ()
    outbox: tuple[OutboxEvent, ...] = ()
    inbox: tuple[InboxEvent, ...] = ()
    dead_events: tuple[DeadEvent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """`reference` is our payment's id; `pending`, `captured` or `failed`."""

    id: str
    reference: str
    status: str
    amount: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """`pending`, `succeeded` or `failed`."""

    id: str
    charge_id: str
    status: str
    amount: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Two worlds are equal when nothing has happened between them: `now` alone does not count.

    `acknowledged` are the ids of the provider's events that got a 2xx, `message_ids` the Message-ID of every copy in
    the mailbox. `received` are the verified attempts at the customer's endpoint at `customer_url`, in order of arrival.
    """

    now: datetime = field(compare=False)
    orders: tuple[Order, ...]
    key_records: tuple[KeyRecord, ...]
    payments: tuple[Payment, ...]
    provider_events: tuple[ProviderEvent, ...]
    mails: tuple[Mail, ...]
    services: Mapping[str, Mechanics]
    charges: tuple[Charge, ...]
    refunds: tuple[Refund, ...]
    acknowledged: tuple[str, ...]
    message_ids: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    deliveries: tuple[Delivery, ...]
    received: tuple[ReceivedWebhook, ...]
    customer_url: str

    def age(self, since: datetime) -> float:
        """Seconds from then to this world's moment."""
        return (self.now - since).total_seconds()
