"""What the oracle reads, row by row; ids are strings, amounts integer minor units."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    customer_email: str
    payment_id: str
    status: str
    amount: int
    currency: str
    paid_amount: int
    reason: str | None
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    product_id: str
    quantity: int
    unit_price: int


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
class RefundRow:
    """A refund as payments knows it; `requested`, `submitted`, `succeeded` or `failed`."""

    id: str
    payment_id: str
    amount: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row of an outbox."""

    event_id: str
    stream: str
    type: str
    aggregate_id: str
    aggregate_version: int
    payload: Mapping[str, object]
    occurred_at: datetime
    published_at: datetime | None


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
    recipient: str
    subject: str
    text: str
    status: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A copy of a mail as it reached the mailbox; `number` counts the copies of all mails in the order of arrival."""

    number: int
    message_id: str
    to: tuple[str, ...]
    subject: str
    text: str
    received_at: datetime


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
    """An event for an endpoint; `id` is the webhook id. `sequence` is its place in the endpoint's queue: a redelivery
    goes to its end.
    """

    id: str
    endpoint_id: str
    event_id: str
    event_type: str
    order_id: str
    body: str
    status: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A webhook whose signature the customer verified; `is_accepted`: the customer answered 2xx."""

    number: int
    webhook_id: str
    body: str
    is_accepted: bool
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A charge in the provider's ledger: `pending`, `captured` or `failed`. `reference` is our payment's id, `requests`
    counts the POSTs under its key.
    """

    id: str
    reference: str
    status: str
    amount: int
    currency: str
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund in the provider's ledger: `pending`, `succeeded` or `failed`. `reference` is our refund's id."""

    id: str
    reference: str
    charge_id: str
    charge_reference: str
    status: str
    amount: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the provider sent about a charge or a refund, and what became of it here."""

    event_id: str
    type: str
    reference: str
    is_acknowledged: bool
    stored: ProviderEvent | None
    published: tuple[Event, ...]
