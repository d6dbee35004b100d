"""Inbox: an event that is delivered again has no second effect, and an event that is too early waits for earlier
events.

A service's event handlers use this module. `chassis.events.consumer` reads the events from the streams and calls the
handlers. The statements are in `inbox.sql`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import text

from chassis.errors import HoldfastError
from chassis.events.outbox import Event
from chassis.logging import get_logger
from chassis.pooling import Session
from chassis.pooling.statements import DriverStatement, load_statements

log = get_logger(__name__)

_SQL = load_statements("inbox.sql", package="chassis.events")

STATEMENTS = {name: text(sql) for name, sql in _SQL.items()}
"""The statements that rarely run, for SQLAlchemy's sessions."""
DRIVER_STATEMENTS = {name: DriverStatement.of(sql) for name, sql in _SQL.items()}
"""The statements that run for each event, for `Session.fetch`."""


class Undeliverable(HoldfastError):
    """No delivery of this event can succeed. The event becomes dead, and the message of this error is stored as the
    reason.
    """


class _Envelope(BaseModel):
    """An event as the relay publishes it, with a payload that is not validated yet."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    event_id: UUID
    type: str
    schema_version: int = Field(alias="schema")
    aggregate_id: str
    aggregate_version: int = Field(ge=1)
    occurred_at: datetime
    traceparent: str | None = None
    debug: str | None = None
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received[E: Event]:
    """An event as its handler receives it. `aggregate_version` counts the aggregate's events from 1, without gaps."""

    consumer: str
    event_id: UUID
    aggregate_id: str
    aggregate_version: int
    occurred_at: datetime
    traceparent: str | None
    debug: str | None
    payload: E
    json: str


class Kinds[E: Event]:
    """The event types that a consumer reads, each with the class of its payload."""

    def __init__(self, kinds: Iterable[type[E]]) -> None:
        self._kinds = {(kind.options.type, kind.options.version): kind for kind in kinds}
        self._types = {type_name for type_name, _ in self._kinds}

    def parse(self, consumer: str, event: str) -> Received[E] | None:
        """The event, or None if this consumer does not read this type. Raises `Undeliverable` for an invalid event."""
        try:
            envelope = _Envelope.model_validate_json(event)
            if envelope.type not in self._types:
                return None
            payload = self._kind(envelope).model_validate(envelope.payload)
        except ValidationError as error:
            raise Undeliverable(f"it cannot be read: {error}") from error
        return Received(
            consumer=consumer,
            event_id=envelope.event_id,
            aggregate_id=envelope.aggregate_id,
            aggregate_version=envelope.aggregate_version,
            occurred_at=envelope.occurred_at,
            traceparent=envelope.traceparent,
            debug=envelope.debug,
            payload=payload,
            json=event,
        )

    def _kind(self, envelope: _Envelope) -> type[E]:
        try:
            return self._kinds[envelope.type, envelope.schema_version]
        except KeyError:
            reason = f"this consumer cannot read {envelope.type} version {envelope.schema_version}"
            raise Undeliverable(reason) from None


async def in_order[E: Event](
    session: Session, received: Received[E], kinds: Kinds[E], *, last_version: int
) -> list[Received[E]]:
    """The events to apply now, in order. `last_version` is the version of the aggregate's last applied event.

    If an earlier version is missing, `received` is held (stored in the inbox until the earlier event arrives), and the
    list is empty. If `received` is the next event, the list contains `received` and the held events that follow without
    a gap. If the version of `received` was applied before, the list is empty as well.

    Before the call, the caller locks the row of the aggregate in the service's table. In the same transaction, the
    caller stores the version of the last event that it has applied.
    """
    if received.aggregate_version > last_version + 1:
        await _hold(session, received)
    if received.aggregate_version != last_version + 1:
        return []
    return [received, *await _release(session, received, kinds)]


async def _hold[E: Event](session: Session, received: Received[E]) -> None:
    values = {
        "consumer": received.consumer,
        "event_id": received.event_id,
        "aggregate_id": received.aggregate_id,
        "aggregate_version": received.aggregate_version,
        "event": received.json,
    }
    await session.execute(STATEMENTS["hold"], values)
    log.info("event_held", aggregate_id=received.aggregate_id, aggregate_version=received.aggregate_version)


async def _release[E: Event](session: Session, after: Received[E], kinds: Kinds[E]) -> list[Received[E]]:
    held = await session.fetch(DRIVER_STATEMENTS["held"], consumer=after.consumer, aggregate_id=after.aggregate_id)
    released: list[Received[E]] = []
    for row in held:
        if row["aggregate_version"] != after.aggregate_version + 1 + len(released):
            break
        event = kinds.parse(after.consumer, row["event"])
        assert event is not None  # noqa: S101  only an event of a type that this consumer reads is held
        released.append(event)
    if released:
        ids = [event.event_id for event in released]
        await session.fetch(DRIVER_STATEMENTS["release"], consumer=after.consumer, event_ids=ids)
    return released
