"""What the four databases keep about one order. Ids are strings, times in UTC, amounts integer minor units."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """`lines` is a text, `2 × rope`; `cancelling_at` is none for an order that nobody cancelled."""

    id: str
    client_id: str
    customer_email: str
    payment_id: str
    status: str
    reason: str | None
    amount: int
    currency: str
    paid_amount: int
    created_at: datetime
    updated_at: datetime
    cancelling_at: datetime | None
    lines: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    id: str
    status: str
    reason: str | None
    void: bool
    provider_charge_id: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One POST to the provider. `open`: it may have had an effect; without an end, no answer to it was recorded."""

    n: int
    outcome: str
    answer: str | None
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    id: str
    n: int
    amount: int
    status: str
    reason: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """A webhook that came in; `type` is none when its body cannot be read."""

    id: str
    provider: str
    event_id: str
    type: str | None
    status: str
    reason: str | None
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    id: str
    event_type: str
    recipient: str
    subject: str
    status: str
    reason: str | None
    created_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A webhook to a customer; `attempts` counts those begun."""

    id: str
    event_type: str
    url: str
    status: str
    attempts: int
    last_status: int | None
    reason: str | None
    created_at: datetime
    settled_at: datetime | None
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row of an outbox."""

    event_id: str
    stream: str
    type: str
    aggregate_id: str
    version: int
    occurred_at: datetime
    published_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An event in a consumer's inbox; `held` until the ones before it are there."""

    event_id: str
    status: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEvent:
    id: str
    event_id: str
    reason: str
    died_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that is due, running or dead: one that is done leaves no row."""

    id: str
    name: str
    status: str
    attempt: int
    max_attempts: int
    run_at: datetime
    worker: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt of a job that failed; `retry_at` is none when it was the last."""

    job_id: str
    name: str
    attempt: int
    error: str
    failed_at: datetime
    retry_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanics:
    """Of the tables that every service has, the rows about this order."""

    events: tuple[Event, ...]
    arrivals: tuple[Arrival, ...]
    dead_events: tuple[DeadEvent, ...]
    jobs: tuple[Job, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """`now` is the clock of orders' database; `services` has the four by name."""

    now: datetime
    order: Order
    payment: Payment | None
    attempts: tuple[Attempt, ...]
    refunds: tuple[Refund, ...]
    provider_events: tuple[ProviderEvent, ...]
    mails: tuple[Mail, ...]
    deliveries: tuple[Delivery, ...]
    services: Mapping[str, Mechanics]
