"""Outbox: an event commits with the change it tells of, and is published after; twice now and then, lost never.

A service writes events with `publish`. One relay per database copies them to Redis Streams and marks them afterwards,
so that a crash in between repeats events instead of losing them. Redis is not trusted to remember: the relay notices
when it was emptied or set back, and consumers (`chassis.messaging`) when entries were trimmed that they had not read;
whatever the outbox still keeps is then published again.

The statements are in `outbox.sql`, the script that publishes in `outbox.lua`.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import asyncpg
from prometheus_client import Counter, Gauge, Histogram
from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.background import Group
from chassis.errors import HoldfastError
from chassis.logging import debug_header, get_logger
from chassis.pooling import HotSession, Passwords, is_transient
from chassis.settings import DatabaseSettings, OutboxSettings
from chassis.statements import load_statements
from chassis.telemetry import SpanKind, current_traceparent, is_unrecorded, span
from chassis.wakeup import Wakeups, connect, wait_or_poll, wake_after_commit

log = get_logger(__name__)

published = Counter("outbox_published", "Events published, repeated ones included.", ["stream"])
republished = Counter("outbox_republished", "Events that go out again because Redis forgot their stream.", ["stream"])
# By database, so that a process without a relay exposes none of them: a 0 there would read as a lost leader.
lag_seconds = Gauge("outbox_lag_seconds", "How long the oldest unpublished event has waited.", ["database"])
unpublished = Gauge("outbox_unpublished", "Events that wait to be published.", ["database"])
is_leader = Gauge(
    "outbox_is_leader", "1 in the process whose relay publishes, 0 in those whose relay waits for it.", ["database"]
)
is_held_back = Gauge(
    "outbox_held_back", "1 while events wait because a group's unread entries fill the stream.", ["stream"]
)
operation_seconds = Histogram(
    "messaging_client_operation_duration_seconds",
    "Duration of a call to Redis that sends or receives a batch of events.",
    ["operation", "stream"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

WAKEUP_CHANNEL = "outbox"

_SQL = load_statements("outbox.sql")
_PUBLISH = text(_SQL["publish"])
_SCRIPT = Path(__file__).with_name("outbox.lua").read_text("utf-8")
_PRUNE_EVERY_SECONDS = 60.0
_PRUNE_ROWS = 10_000
"""Rows forgotten in one statement: some 50 ms."""


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


def to_insert(session: HotSession, event: Event, *, stream: str, aggregate_id: UUID | str) -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    """Where a stream stands: what Redis must still know of it and, while it is repeated, how far that is."""

    stream: str
    epoch: str
    last_id: str
    repeat_after: int | None


class _Deposed(HoldfastError):
    """Redis knows a leader of a higher `term`: it took over while this one could not be heard of."""

    def __init__(self, stream: str, term: int) -> None:
        super().__init__(f"a leader of term {term} has published to {stream}")
        self.term = term


class Relay:
    """Publishes the outbox of one database. Of all processes that run one, the holder of an advisory lock does it.

    Lock, reads and marks share one connection: a relay that lost the lock has lost the means to go on, too. A relay
    that is killed is followed within `poll_interval`; one that stands still, or whose host is gone, within
    `leader_timeout` more. When it wakes, Redis refuses it: a later leader has published under a higher term. Terms are
    counted in the database, so that no clock decides who leads.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        redis: Redis,
        settings: OutboxSettings,
        *,
        wakeups: Wakeups,
        application_name: str = "relay",
        passwords: Passwords | None = None,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._redis = redis
        self._settings = settings
        self._application_name = application_name
        self._publish_script = redis.register_script(_SCRIPT)
        self._woken = wakeups.subscribe(WAKEUP_CHANNEL)
        self._term = 0
        self._measured_at = self._pruned_at = float("-inf")
        self._is_leader, self._lag_seconds, self._unpublished = (
            gauge.labels(database.name) for gauge in (is_leader, lag_seconds, unpublished)
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then publish once more what has been committed, and return."""
        async with Group() as tasks:
            wake = tasks.start(partial(self._wake_when, stopping), name="wake")
            while not stopping.is_set():
                try:
                    await self._lead_until(stopping)
                except Exception as error:
                    if not (isinstance(error, _Deposed) or is_transient(error)):
                        raise
                    log.warning("outbox_leadership_lost", error=type(error).__name__)
                    await wait_or_poll(stopping, interval=self._settings.poll_interval)
            wake.cancel()

    async def _wake_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._woken.set()

    async def _lead_until(self, stopping: asyncio.Event) -> None:
        connection = await connect(self._database, application_name=self._application_name, passwords=self._passwords)
        try:
            await connection.execute(_SQL["tie_to_silence"], str(round(self._settings.leader_timeout * 1000)))
            while not await connection.fetchval(_SQL["lead"]):
                if stopping.is_set():
                    return
                await wait_or_poll(stopping, interval=self._settings.poll_interval)
            self._term = await connection.fetchval(_SQL["next_term"])
            self._is_leader.set(1)
            log.info("outbox_leadership_taken", term=self._term)
            await self._relay_until(connection, stopping)
        except _Deposed as error:
            # A later leader has ended this session, and this fails. While it lives, no other relay leads.
            await connection.execute(_SQL["raise_term"], error.term)
            raise
        finally:
            for gauge in (self._is_leader, self._lag_seconds, self._unpublished):
                gauge.set(0)  # they are the leader's to tell
            is_held_back.clear()
            await _close(connection)

    async def _relay_until(self, connection: asyncpg.Connection, stopping: asyncio.Event) -> None:
        is_last = False
        while not is_last:
            is_last = stopping.is_set()
            self._woken.clear()
            try:
                is_full = await self._relay_once(connection)
            except RedisError as error:
                is_full = False
                log.warning("outbox_redis_failed", error=type(error).__name__)
            await self._tend(connection)
            if not is_full and not stopping.is_set():
                await wait_or_poll(self._woken, interval=self._settings.poll_interval)

    async def _relay_once(self, connection: asyncpg.Connection) -> bool:
        """Publish one batch of each stream; whether a stream may have more.

        A stream without news is asked too: Redis may have forgotten what its consumers have not read yet.
        """
        is_full = False
        for row in await connection.fetch(_SQL["positions"]):
            position = await self._restart(connection, row["stream"]) if row["epoch"] is None else _Position(**row)
            is_full = await self._relay_stream(connection, position) or is_full
        return is_full

    async def _relay_stream(self, connection: asyncpg.Connection, position: _Position) -> bool:
        stream, batch = position.stream, self._settings.batch
        rows = await connection.fetch(_SQL["next"], stream, batch, position.repeat_after)
        sent = await self._send(position, [row["event"] for row in rows])
        if sent is None:
            await self._restart(connection, stream)
            log.warning("outbox_stream_forgotten", stream=stream)
            return True
        last_id, count, slowest = sent
        self._tell_held_back(stream, slowest)
        is_full = count == batch
        done = rows[:count]
        repeat_after = position.repeat_after
        if repeat_after is not None:
            is_over = not slowest and not is_full
            repeat_after = None if is_over else done[-1]["seq"] if done else repeat_after
        if done or (last_id, repeat_after) != (position.last_id, position.repeat_after):
            await connection.execute(_SQL["mark"], stream, [row["seq"] for row in done], last_id, repeat_after)
            published.labels(stream).inc(count)
            republished.labels(stream).inc(sum(row["is_repeated"] for row in done))
        return is_full or repeat_after != position.repeat_after

    async def _send(self, position: _Position, events: Sequence[str]) -> tuple[str, int, str] | None:
        """(the stream's last id, number of events sent, the group that the others wait for); None: Redis has forgotten.

        Raises `_Deposed`.
        """
        stream = position.stream
        arguments: list[str | int] = [
            position.epoch,
            position.last_id,
            self._term,
            self._settings.stream_max_length,
            *events,
        ]
        with operation_seconds.labels("send", stream).time():
            answer = await self._publish_script(keys=[stream, epoch_key(stream), f"{stream}:term"], args=arguments)
        match answer:
            case [b"published", last_id, count, slowest]:
                return last_id.decode(), count, slowest.decode()
            case [b"forgotten"]:
                return None
            case [b"deposed", term]:
                raise _Deposed(stream, term)
            case _:
                raise AssertionError(answer)

    async def _restart(self, connection: asyncpg.Connection, stream: str) -> _Position:
        """Begin a new epoch, in PostgreSQL: Redis learns of it with the first batch."""
        epoch = str(uuid4())
        await connection.execute(_SQL["restart"], stream, epoch)
        return _Position(stream=stream, epoch=epoch, last_id="", repeat_after=0)

    def _tell_held_back(self, stream: str, slowest: str) -> None:
        gauge = is_held_back.labels(stream)
        if slowest:
            gauge.set(1)
            log.warning("outbox_held_back", stream=stream, group=slowest)
        else:
            gauge.set(0)

    async def _tend(self, connection: asyncpg.Connection) -> None:
        """Now and then, measure the lag and forget what is older than the retention."""
        now = time.monotonic()
        if now - self._measured_at >= self._settings.poll_interval:
            self._measured_at = now
            (lag,) = await connection.fetch(_SQL["lag"])
            self._lag_seconds.set(lag["seconds"])
            self._unpublished.set(lag["events"])
        if now - self._pruned_at >= _PRUNE_EVERY_SECONDS:
            count = await connection.fetchval(_SQL["prune"], self._settings.retention, _PRUNE_ROWS)
            if count < _PRUNE_ROWS:  # else there is more, and the next turn goes on
                self._pruned_at = now


def epoch_key(stream: str) -> str:
    """Where Redis remembers which epoch of the stream this is. Without it the relay publishes everything again."""
    return f"{stream}:epoch"


def _attributes(stream: str) -> dict[str, str | int]:
    return {
        "messaging.system": "redis",
        "messaging.operation.type": "send",
        "messaging.destination.name": stream,
    }


async def _close(connection: asyncpg.Connection) -> None:
    """Close it, so that the next leader need not wait until the server notices."""
    try:
        await connection.close(timeout=1)
    except Exception as error:
        if not is_transient(error):
            raise
