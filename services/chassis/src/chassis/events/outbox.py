"""Outbox: an event commits with the change it tells of, and is published after; twice now and then, lost never.

A service writes events with `publish`. One relay per database (`chassis.events.relay`) copies them to Redis Streams.
The statements are in `outbox.sql`.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from prometheus_client import Histogram
from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.logging import debug_header, get_logger
from chassis.pooling import HotSession
from chassis.pooling.statements import load_statements
from chassis.pooling.wakeup import wake_after_commit
from chassis.telemetry import SpanKind, current_traceparent, is_unrecorded, span

log = get_logger(__name__)

operation_seconds = Histogram(
    "messaging_client_operation_duration_seconds",
    "Duration of a call to Redis that sends or receives a batch of events.",
    ["operation", "stream"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

WAKEUP_CHANNEL = "outbox"

STATEMENTS = load_statements("outbox.sql", package="chassis.events")

_PUBLISH = text(STATEMENTS["publish"])


@dataclass(frozen=True, slots=True)
class EventOptions:
    """The event's type, as consumers know it, and the version of its payload's shape."""

    type: str
    version: int = 1


class Event(BaseModel):
    """The payload of an event: `class OrderPlaced(Event, type="order.placed")`.

    A consumer declares the fields it reads; further ones are ignored, so that a producer may add some. Any other
    change of shape needs a new `version`. A class without a type holds what several events share.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    options: ClassVar[EventOptions]

    def __init_subclass__(cls, *, type: str | None = None, **options: Any) -> None:  # noqa: A002  the envelope's name
        if type is not None:
            cls.options = EventOptions(type, **options)


async def publish(
    session: AsyncSession, event: Event, *, stream: str, aggregate_id: UUID | str, aggregate_version: int
) -> UUID:
    """Add the event to the session's transaction and return its id: it goes out if and only if that commits.

    `aggregate_version` counts the published events of this aggregate from 1 without gaps; take it under the lock of the
    aggregate's row. Raises `IntegrityError` when that version was published before.
    """
    with _producing(event, stream):
        values = _values(event, stream, aggregate_id, aggregate_version)
        event_id: UUID = (await session.execute(_PUBLISH, values)).scalar_one()
    wake_after_commit(session, WAKEUP_CHANNEL)
    return event_id


def insert_values(session: HotSession, event: Event, *, stream: str, aggregate_id: UUID | str) -> dict[str, Any]:
    """`publish` of a new aggregate's first event for a hot statement of a service, which inserts `event_…`."""
    wake_after_commit(session, WAKEUP_CHANNEL)
    with _producing(event, stream):
        return _values(event, stream, aggregate_id, 1)


def _producing(event: Event, stream: str) -> AbstractContextManager[object]:
    if is_unrecorded():
        return nullcontext()  # the event continues the caller's trace, of which nobody will see anything
    return span(f"publish {event.options.type}", kind=SpanKind.PRODUCER, attributes=lambda: _attributes(stream))


def _values(event: Event, stream: str, aggregate_id: UUID | str, aggregate_version: int) -> dict[str, Any]:
    return {
        "event_stream": stream,
        "event_type": event.options.type,
        "event_schema": event.options.version,
        "event_aggregate_id": str(aggregate_id),
        "event_aggregate_version": aggregate_version,
        "event_payload": event.model_dump_json(),
        "event_traceparent": current_traceparent(),
        "event_debug": debug_header(),
    }


def _attributes(stream: str) -> dict[str, str | int]:
    return {
        "messaging.system": "redis",
        "messaging.operation.type": "send",
        "messaging.destination.name": stream,
    }
