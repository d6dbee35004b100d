"""Outbox: an event is stored in the transaction of the change that it reports, and published after the commit.

An event is published at least once, so a consumer may receive it again. A service stores events with `publish`. One
relay per database (`chassis.events.relay`) copies the stored events to Redis Streams. The statements are in
`outbox.sql`.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from prometheus_client import Histogram
from pydantic import BaseModel, ConfigDict

from chassis.logging import debug_header, get_logger
from chassis.pooling import Row, Session
from chassis.pooling.statements import DriverStatement, load_statements
from chassis.telemetry import SpanKind, current_traceparent, span

log = get_logger(__name__)

operation_seconds = Histogram(
    "messaging_client_operation_duration_seconds",
    "Duration of a call to Redis that sends or receives a batch of events.",
    ["operation", "stream"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

WAKEUP_CHANNEL = "outbox"

STATEMENTS = load_statements("outbox.sql", package="chassis.events")

_PUBLISH = DriverStatement.of(STATEMENTS["publish"])


@dataclass(frozen=True, slots=True)
class EventOptions:
    """The event's type, which consumers subscribe to, and the version of its payload's fields."""

    type: str
    version: int = 1


class Event(BaseModel):
    """The payload of an event. A service declares a payload as `class OrderPlaced(Event, type="order.placed")`.

    A consumer declares the fields that it reads and ignores all others, so a producer may add fields. Any other change
    of the fields needs a new `version`. A subclass without `type` is a base class for fields that several events share.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    options: ClassVar[EventOptions]

    def __init_subclass__(cls, *, type: str | None = None, **options: Any) -> None:  # noqa: A002  the published field is called `type`, too
        if type is not None:
            cls.options = EventOptions(type, **options)


async def publish(
    session: Session, event: Event, *, stream: str, aggregate_id: UUID | str, aggregate_version: int
) -> None:
    """Add the event to the session's transaction. The relay publishes the event if the transaction commits.

    `aggregate_version` counts the events of this aggregate from 1, without gaps. The caller determines this number
    while it holds the lock of the aggregate's row. Raises `UniqueViolationError` for a version that was published
    before.
    """
    row = event_row(event, stream=stream, aggregate_id=aggregate_id, aggregate_version=aggregate_version)
    await session.insert(row)


def event_row(event: Event, *, stream: str, aggregate_id: UUID | str, aggregate_version: int) -> Row:
    """The row that `publish` inserts. `Session.insert` can insert this row together with other rows."""
    with _producer_span(event, stream):
        values = {
            "event_stream": stream,
            "event_type": event.options.type,
            "event_schema": event.options.version,
            "event_aggregate_id": str(aggregate_id),
            "event_aggregate_version": aggregate_version,
            "event_payload": event.model_dump_json(),
            "event_traceparent": current_traceparent(),
            "event_debug": debug_header(),
        }
    return Row(statement=_PUBLISH, values=values, wakes=WAKEUP_CHANNEL)


def _producer_span(event: Event, stream: str) -> AbstractContextManager[object]:
    return span(f"publish {event.options.type}", kind=SpanKind.PRODUCER, attributes=lambda: _attributes(stream))


def _attributes(stream: str) -> dict[str, str | int]:
    return {
        "messaging.system": "redis",
        "messaging.operation.type": "send",
        "messaging.destination.name": stream,
    }
