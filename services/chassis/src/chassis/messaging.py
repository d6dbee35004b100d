"""Consuming event streams: each event has its effect once, in order per aggregate, and none is given up silently.

Redis delivers at least once. An inbox row with the event's id commits together with the handler's effects, and the
entry is acknowledged afterwards: what is delivered again finds its row and does nothing. What cannot be handled goes to
the table `dead_event` with its reason.

A handler's side of it is `chassis.inbox`; the statements are in `inbox.sql`.
"""

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import Counter, Gauge, Histogram
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redis.typing import KeyT, StreamIdT
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.errors import HoldfastError
from chassis.inbox import STATEMENTS, Kinds, Received, Undeliverable
from chassis.logging import bind, canonical_line, debugging_for, get_logger, redact
from chassis.outbox import Event
from chassis.pooling import Database
from chassis.retries import full_jitter
from chassis.settings import OutboxSettings
from chassis.telemetry import SpanKind, record_failure, span
from chassis.wakeup import DATABASE_ERRORS, wait_or_poll

log = get_logger(__name__)

consumed = Counter("messaging_consumed", "Deliveries that ended, by outcome.", ["stream", "type", "outcome"])
process_seconds = Histogram(
    "messaging_process_duration_seconds",
    "Time from reading an event to the end of its transaction.",
    ["stream", "type"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
consumer_lag = Gauge("messaging_consumer_lag", "Entries of the stream not yet read by the group.", ["stream", "group"])
held_seconds = Gauge("messaging_held_oldest_age_seconds", "How long the oldest held event has waited.", ["group"])


type Outcome = Literal["handled", "seen", "skipped", "failed", "dead"]
# A handler takes the payload type it is registered under: a relation that a Mapping's type cannot express.
type Handler = Callable[[AsyncSession, Received[Any]], Awaitable[None]]

_MAX_REASON_LENGTH = 2000
_PRUNE_ROWS = 10_000
_PRUNE_EVERY_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A stream entry; `text` is None when it was trimmed before it could be read again. Deliveries include this one."""

    stream: str
    id: str
    text: str | None
    deliveries: int


class Consumer:
    """One consumer of a group: reads `streams` and calls `await handler(session, received)` for each event, in turn.

    `handlers` maps payload types to handlers; other types are acknowledged and skipped. A handler works in the given
    session alone, makes no network call, and raises `Undeliverable` for what can never succeed. Anything else that it
    raises rolls back and is delivered again with growing pauses, `max_deliveries` times; then the event is a dead
    letter. `claim_after` is the time in seconds after which entries of a silent consumer are taken over; it must be
    longer than a batch takes.
    """

    def __init__(
        self,
        redis: Redis,
        database: Database,
        settings: OutboxSettings,
        *,
        group: str,
        streams: Sequence[str],
        handlers: Mapping[type[Event], Handler],
        name: str | None = None,
        max_deliveries: int = 10,
        claim_after: float = 15.0,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._redis = redis
        self._database = database
        self._settings = settings
        self._group = group
        self._streams = streams
        self._handlers = handlers
        self._kinds = Kinds(handlers)
        self._name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._max_deliveries = max_deliveries
        self._claim_after = claim_after
        self._uniform = uniform
        self._failures = 0
        self._retry_at: float | None = 0.0  # when to read again what was delivered to us and not acknowledged
        self._tended_at = self._pruned_at = float("-inf")

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until `stopping` is set, and finish the batch. Outages of Redis or PostgreSQL are sat out."""
        while not stopping.is_set():
            try:
                await self._create_groups()
                await self._consume_until(stopping)
            except ProgrammingError:
                raise
            except (RedisError, *DATABASE_ERRORS) as error:
                log.warning("consumer_interrupted", group=self._group, error=f"{type(error).__name__}: {error}")
                self._retry_at = 0.0
                await wait_or_poll(stopping, interval=self._pause())
        with suppress(RedisError):
            await self._leave()

    async def _create_groups(self) -> None:
        """From the stream's beginning: a group that Redis forgot reads everything again, and the inbox knows it."""
        for stream in self._streams:
            try:
                await self._redis.xgroup_create(stream, self._group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def _consume_until(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._tend()
            if self._retry_at is not None and time.monotonic() >= self._retry_at:
                await self._retry_pending()
            else:
                await self._process(await self._read_new())

    async def _read_new(self) -> list[_Entry]:
        block = round(self._settings.poll_interval * 1000)
        return _entries(await self._read_group(dict.fromkeys(self._streams, ">"), block=block), {})

    async def _read_group(self, streams: dict[KeyT, StreamIdT], *, block: int | None = None) -> Any:
        return await self._redis.xreadgroup(self._group, self._name, streams, count=self._settings.batch, block=block)

    async def _retry_pending(self) -> None:
        """Take up again what was delivered to this consumer and not acknowledged.

        The database is asked first: reading counts as a delivery, and an outage is no fault of the event.
        """
        await self._database.ping()
        self._retry_at = None
        for stream in self._streams:
            entries = await self._read_pending(stream)
            await self._process(entries)
            if self._retry_at is None and len(entries) == self._settings.batch:
                self._retry_at = 0.0
        if self._retry_at is None:
            self._failures = 0

    async def _read_pending(self, stream: str) -> list[_Entry]:
        pending: Any = await self._redis.xpending_range(
            stream, self._group, "-", "+", self._settings.batch, consumername=self._name
        )
        deliveries = {entry["message_id"].decode(): entry["times_delivered"] + 1 for entry in pending}
        return _entries(await self._read_group({stream: "0"}), deliveries)

    async def _process(self, entries: Iterable[_Entry]) -> None:
        """In order; after a failure the later events of that aggregate wait with it."""
        waiting: set[tuple[str, str]] = set()
        for entry in entries:
            received = await self._read(entry)
            if received is None or (entry.stream, received.aggregate_id) in waiting:
                continue
            if not await self._deliver(entry, received):
                waiting.add((entry.stream, received.aggregate_id))
        if waiting:
            self._retry_at = time.monotonic() + self._pause()

    async def _read(self, entry: _Entry) -> Received[Event] | None:
        """The entry's event, or None when there is nothing to handle and the entry is done with."""
        try:
            received = self._parse(entry)
        except Undeliverable as error:
            await self._bury(entry, "unreadable", str(error))
            return None
        if received is None:
            await self._acknowledge(entry, "other", "skipped")
        return received

    def _parse(self, entry: _Entry) -> Received[Event] | None:
        if entry.text is None:
            raise Undeliverable("it was trimmed from the stream before it was handled")
        if entry.deliveries > self._max_deliveries:
            # A failure is buried when it happens. This event never gets that far: it ends the process that handles it.
            raise Undeliverable(f"it was delivered {self._max_deliveries} times and never came to an end")
        return self._kinds.parse(self._group, entry.text)

    async def _deliver(self, entry: _Entry, received: Received[Event]) -> bool:
        """Whether the entry is done with."""
        kind = received.payload.options.type
        started = time.perf_counter()
        with (
            span(
                f"process {kind}",
                kind=SpanKind.CONSUMER,
                traceparent=received.traceparent,
                attributes=lambda: self._attributes(entry, received),
            ) as current,
            debugging_for(received.debug),
            bind(stream=entry.stream, event_type=kind, event_id=str(received.event_id)),
            canonical_line() as line,
        ):
            log.debug(
                "event_received", aggregate_id=received.aggregate_id, aggregate_version=received.aggregate_version
            )
            outcome, error = await self._handle(entry, received)
            elapsed = time.perf_counter() - started
            process_seconds.labels(entry.stream, kind).observe(elapsed)
            line.update(outcome=outcome, deliveries=entry.deliveries, duration_ms=round(elapsed * 1000, 1))
            _write_line(error, line)
            if error is not None:
                record_failure(current, error)
            if outcome == "failed":
                consumed.labels(entry.stream, kind, outcome).inc()
            elif outcome == "dead":
                await self._bury(entry, kind, f"{type(error).__name__}: {error}")
            else:
                await self._acknowledge(entry, kind, outcome)
        return outcome != "failed"

    def _attributes(self, entry: _Entry, received: Received[Event]) -> dict[str, str | int]:
        return {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.destination.name": entry.stream,
            "messaging.consumer.group.name": self._group,
            "messaging.message.id": str(received.event_id),
            "holdfast.event.deliveries": entry.deliveries,
        }

    async def _handle(self, entry: _Entry, received: Received[Event]) -> tuple[Outcome, Exception | None]:
        try:
            async with self._database.transaction() as session:
                values = {"consumer": self._group, "event_id": received.event_id}
                if await session.scalar(STATEMENTS["receive"], values) is None:
                    return "seen", None
                await self._handlers[type(received.payload)](session, received)
        except Undeliverable as error:
            return "dead", error
        except Exception as error:  # noqa: BLE001  the edge of an event: whatever its handler raises is recorded
            return "dead" if entry.deliveries >= self._max_deliveries else "failed", error
        return "handled", None

    async def _acknowledge(self, entry: _Entry, kind: str, outcome: Outcome) -> None:
        await self._redis.xack(entry.stream, self._group, entry.id)
        consumed.labels(entry.stream, kind, outcome).inc()

    async def _bury(self, entry: _Entry, kind: str, reason: str) -> None:
        values = {
            "consumer": self._group,
            "stream": entry.stream,
            "entry_id": entry.id,
            "event": entry.text or "",
            "reason": str(redact(reason))[:_MAX_REASON_LENGTH],
        }
        async with self._database.transaction() as session:
            await session.execute(STATEMENTS["bury"], values)
        log.error("event_buried", stream=entry.stream, entry_id=entry.id, event_type=kind, reason=values["reason"])
        await self._acknowledge(entry, kind, "dead")

    def _pause(self) -> float:
        """Seconds until the next try: full jitter, longer with each failure in a row."""
        self._failures += 1
        return full_jitter(self._failures - 1, base=1.0, cap=_MAX_PAUSE_SECONDS, random=self._uniform)

    async def _tend(self) -> None:
        """Now and then: take over from silent consumers, measure, and forget old event ids."""
        now = time.monotonic()
        if now - self._tended_at < self._claim_after / 5:
            return
        self._tended_at = now
        for stream in self._streams:
            await self._take_over(stream)
            await self._measure(stream)
        async with self._database.transaction() as session:
            held_seconds.labels(self._group).set(
                await session.scalar(STATEMENTS["sample"], {"consumer": self._group}) or 0
            )
            if now - self._pruned_at >= _PRUNE_EVERY_SECONDS:
                self._pruned_at = now
                values = {"consumer": self._group, "retention": self._settings.inbox_retention, "count": _PRUNE_ROWS}
                await session.execute(STATEMENTS["prune"], values)

    async def _take_over(self, stream: str) -> None:
        idle = round(self._claim_after * 1000)
        ids = await self._redis.xautoclaim(
            stream, self._group, self._name, idle, count=self._settings.batch, justid=True
        )
        if ids:
            log.warning("entries_taken_over", stream=stream, group=self._group, entries=len(ids))
            self._retry_at = 0.0

    async def _measure(self, stream: str) -> None:
        for group in await self._redis.xinfo_groups(stream):
            if group["name"] == self._group.encode() and group["lag"] is not None:
                consumer_lag.labels(stream, self._group).set(group["lag"])

    async def _leave(self) -> None:
        """Leave the group, unless entries are still ours: whoever takes them over needs to find them."""
        for stream in self._streams:
            if not await self._redis.xpending_range(stream, self._group, "-", "+", 1, consumername=self._name):
                await self._redis.xgroup_delconsumer(stream, self._group, self._name)


def _entries(answer: Any, deliveries: Mapping[str, int]) -> list[_Entry]:
    """The entries of an XREADGROUP answer."""
    return [
        _Entry(
            stream=stream.decode(),
            id=entry_id.decode(),
            text=fields[b"event"].decode(errors="replace") if fields else None,
            deliveries=deliveries.get(entry_id.decode(), 1),
        )
        for stream, entries in answer
        for entry_id, fields in entries
    ]


def _write_line(error: Exception | None, fields: Mapping[str, Any]) -> None:
    """The delivery's canonical line; an error that nobody raised on purpose brings its traceback."""
    if error is None:
        log.info("event_processed", **fields)
    else:
        trace = None if isinstance(error, HoldfastError) else error
        log.warning("event_processed", **fields, error=f"{type(error).__name__}: {error}", exc_info=trace)
