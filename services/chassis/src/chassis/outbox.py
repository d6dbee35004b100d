"""Outbox: an event commits with the change it tells of, and is published after; twice now and then, lost never.

A service writes events with `publish`. One relay per database copies them to Redis Streams and marks them afterwards,
so that a crash in between repeats events instead of losing them. Redis is not trusted to remember: the relay notices
when it was emptied or set back, and publishes again whatever it still keeps.

The statements are in `outbox.sql`, the script that publishes in `outbox.lua`.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import asyncpg
from prometheus_client import Counter, Gauge
from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.logging import debug_header, get_logger
from chassis.pooling import Passwords
from chassis.settings import DatabaseSettings, OutboxSettings
from chassis.statements import load_statements
from chassis.telemetry import SpanKind, current_traceparent, span
from chassis.wakeup import CONNECTION_ERRORS, Wakeups, connect, wait_or_poll, wake_after_commit

log = get_logger(__name__)

published = Counter("outbox_published", "Events published, repeated ones included.", ["stream"])
republished = Counter("outbox_republished", "Events that go out again because Redis forgot their stream.", ["stream"])
lag_seconds = Gauge("outbox_lag_seconds", "How long the oldest unpublished event has waited.")
unpublished = Gauge("outbox_unpublished", "Events that wait to be published.")
is_leader = Gauge("outbox_is_leader", "1 in the process whose relay publishes.")

WAKEUP_CHANNEL = "outbox"

_SQL = load_statements("outbox.sql")
_PUBLISH = text(_SQL["publish"])
_SCRIPT = Path(__file__).with_name("outbox.lua").read_text("utf-8")
_PRUNE_EVERY_SECONDS = 60.0
_PRUNE_ROWS = 10_000
"""Rows looked at in one go: about 170 a second, above what one relay is expected to publish in the long run."""


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
    kind = event.options.type
    with span(f"publish {kind}", kind=SpanKind.PRODUCER, attributes=lambda: _attributes(stream)):
        values = {
            "stream": stream,
            "type": kind,
            "schema": event.options.version,
            "aggregate_id": str(aggregate_id),
            "aggregate_version": aggregate_version,
            "payload": event.model_dump_json(),
            "traceparent": current_traceparent(),
            "debug": debug_header(),
        }
        event_id: UUID = (await session.execute(_PUBLISH, values)).scalar_one()
    wake_after_commit(session, WAKEUP_CHANNEL)
    return event_id


class Relay:
    """Publishes the outbox of one database. Of all processes that run one, the holder of an advisory lock does it.

    Lock, reads and marks share one connection: a relay that lost the lock has lost the means to go on, too.
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
        self._measured_at = self._pruned_at = float("-inf")

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then publish once more what has been committed, and return."""
        async with asyncio.TaskGroup() as tasks:
            wake = tasks.create_task(self._wake_when(stopping))
            while not stopping.is_set():
                try:
                    await self._lead_until(stopping)
                except CONNECTION_ERRORS as error:
                    log.warning("outbox_database_failed", error=type(error).__name__)
                    await wait_or_poll(stopping, interval=self._settings.poll_interval)
            wake.cancel()

    async def _wake_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._woken.set()

    async def _lead_until(self, stopping: asyncio.Event) -> None:
        connection = await connect(self._database, application_name=self._application_name, passwords=self._passwords)
        try:
            while not await connection.fetchval(_SQL["lead"]):
                if stopping.is_set():
                    return
                await wait_or_poll(stopping, interval=self._settings.poll_interval)
            is_leader.set(1)
            log.info("outbox_leadership_taken")
            await self._relay_until(connection, stopping)
        finally:
            is_leader.set(0)
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
        for position in await connection.fetch(_SQL["positions"]):
            count = await self._relay_stream(connection, position["stream"], position["epoch"], position["last_id"])
            is_full = is_full or count == self._settings.batch
        return is_full

    async def _relay_stream(
        self, connection: asyncpg.Connection, stream: str, epoch: str | None, last_id: str | None
    ) -> int:
        if epoch is None or last_id is None:
            epoch, last_id = await self._restart(connection, stream), "0-0"
        rows = await connection.fetch(_SQL["unpublished"], stream, self._settings.batch)
        new_id = await self._send(stream, epoch, last_id, [row["event"] for row in rows])
        if new_id is None:
            await self._restart(connection, stream)
            return self._settings.batch
        if rows:
            await connection.execute(_SQL["mark"], stream, [row["seq"] for row in rows], new_id)
            published.labels(stream).inc(len(rows))
        return len(rows)

    async def _send(self, stream: str, epoch: str, last_id: str, events: Sequence[str]) -> str | None:
        """The stream's last id after publishing, or None when Redis has forgotten the stream."""
        arguments: list[str | int] = [epoch, last_id, self._settings.stream_max_length, *events]
        answer: bytes | None = await self._publish_script(keys=[stream, _epoch_key(stream)], args=arguments)
        return answer.decode() if answer is not None else None

    async def _restart(self, connection: asyncpg.Connection, stream: str) -> str:
        """Begin a new epoch, in PostgreSQL first: a crash before Redis knows it only begins another one."""
        epoch = str(uuid4())
        count = await connection.fetchval(_SQL["restart"], stream, epoch)
        await self._redis.set(_epoch_key(stream), epoch)
        if count:
            republished.labels(stream).inc(count)
            log.warning("outbox_stream_forgotten", stream=stream, events=count)
        return epoch

    async def _tend(self, connection: asyncpg.Connection) -> None:
        """Now and then, measure the lag and forget what is older than the retention."""
        now = time.monotonic()
        if now - self._measured_at >= self._settings.poll_interval:
            self._measured_at = now
            (lag,) = await connection.fetch(_SQL["lag"])
            lag_seconds.set(lag["seconds"])
            unpublished.set(lag["events"])
        if now - self._pruned_at >= _PRUNE_EVERY_SECONDS:
            self._pruned_at = now
            await connection.execute(_SQL["prune"], self._settings.retention, _PRUNE_ROWS)


def _attributes(stream: str) -> dict[str, str | int]:
    return {
        "messaging.system": "redis",
        "messaging.operation.type": "send",
        "messaging.destination.name": stream,
    }


def _epoch_key(stream: str) -> str:
    return f"{stream}:epoch"


async def _close(connection: asyncpg.Connection) -> None:
    """Close it, so that the next leader need not wait until the server notices."""
    with suppress(*CONNECTION_ERRORS):
        await connection.close(timeout=1)
