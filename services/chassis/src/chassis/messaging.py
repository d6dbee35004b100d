"""Consuming event streams: each event has its effect once, in order per aggregate, and none is given up silently.

Redis delivers at least once. An inbox row with the event's id commits together with the handler's effects, and the
entry is acknowledged afterwards: what is delivered again finds its row and does nothing. What cannot be handled goes to
the table `dead_event` with its reason, from where `chassis.dead_events` has it replayed.

A handler's side of it is `chassis.inbox`, the group's in Redis `chassis.consumer_group`; the statements are in
`inbox.sql`.
"""

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from prometheus_client import Counter, Gauge, Histogram
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.consumer_group import ConsumerGroup, Entry
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
dead_letters = Gauge("messaging_dead_letters", "Events that this group could not handle.", ["group"])
held_seconds = Gauge("messaging_held_oldest_age_seconds", "How long the oldest held event has waited.", ["group"])


type Outcome = Literal["handled", "seen", "skipped", "failed", "dead"]
# A handler takes the payload type it is registered under: a relation that a Mapping's type cannot express.
type Handler = Callable[[AsyncSession, Received[Any]], Awaitable[None]]

_MAX_REASON_LENGTH = 2000
_PRUNE_ROWS = 10_000
_PRUNE_EVERY_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 30.0


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
        self._database = database
        self._settings = settings
        self._group = group
        self._place = ConsumerGroup(
            redis,
            group=group,
            name=name or f"{socket.gethostname()}:{os.getpid()}",
            streams=streams,
            batch=settings.batch,
        )
        self._handlers = handlers
        self._kinds = Kinds(handlers)
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
                await self._place.create()
                await self._consume_until(stopping)
            except ProgrammingError:
                raise
            except (RedisError, *DATABASE_ERRORS) as error:
                log.warning("consumer_interrupted", group=self._group, error=f"{type(error).__name__}: {error}")
                self._retry_at = 0.0
                await wait_or_poll(stopping, interval=self._pause())
        with suppress(RedisError):
            await self._place.leave()

    async def _consume_until(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._tend()
            if self._retry_at is not None and time.monotonic() >= self._retry_at:
                await self._retry_pending()
            else:
                await self._process(await self._place.read_new(block=self._settings.poll_interval))

    async def _retry_pending(self) -> None:
        """Take up again what was delivered to this consumer and not acknowledged.

        The database is asked first: reading counts as a delivery, and an outage is no fault of the event.
        """
        await self._database.ping()
        self._retry_at = None
        for stream in self._place.streams:
            entries, is_full = await self._place.read_pending(stream)
            await self._process(entries)
            if self._retry_at is None and is_full:
                self._retry_at = 0.0
        if self._retry_at is None:
            self._failures = 0

    async def _process(self, entries: Iterable[Entry]) -> None:
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

    async def _read(self, entry: Entry) -> Received[Event] | None:
        """The entry's event, or None when there is nothing to handle and the entry is done with."""
        try:
            received = self._parse(entry)
        except Undeliverable as error:
            await self._bury(entry, "unreadable", str(error))
            return None
        if received is None:
            await self._acknowledge(entry, "other", "skipped")
        return received

    def _parse(self, entry: Entry) -> Received[Event] | None:
        if entry.deliveries > self._max_deliveries:
            # A failure is buried when it happens. This event never gets that far: it ends the process that handles it.
            raise Undeliverable(f"it was delivered {self._max_deliveries} times and never came to an end")
        return self._kinds.parse(self._group, entry.text)

    async def _deliver(self, entry: Entry, received: Received[Event]) -> bool:
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

    def _attributes(self, entry: Entry, received: Received[Event]) -> dict[str, str | int]:
        return {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.destination.name": entry.stream,
            "messaging.consumer.group.name": self._group,
            "messaging.message.id": str(received.event_id),
            "holdfast.event.deliveries": entry.deliveries,
        }

    async def _handle(self, entry: Entry, received: Received[Event]) -> tuple[Outcome, Exception | None]:
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

    async def _acknowledge(self, entry: Entry, kind: str, outcome: Outcome) -> None:
        if entry.dead_id is None:
            await self._place.acknowledge(entry)
        elif outcome != "dead":
            async with self._database.transaction() as session:
                await session.execute(STATEMENTS["forget_dead"], {"id": entry.dead_id})
        consumed.labels(entry.stream, kind, outcome).inc()

    async def _bury(self, entry: Entry, kind: str, reason: str) -> None:
        shown = str(redact(reason))[:_MAX_REASON_LENGTH]
        values = {
            "consumer": self._group,
            "stream": entry.stream,
            "entry_id": entry.id,
            "event": entry.text,
            "reason": shown,
        }
        async with self._database.transaction() as session:
            await session.execute(STATEMENTS["bury"], values)
        log.error("event_buried", stream=entry.stream, entry_id=entry.id, event_type=kind, reason=shown)
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
        for stream in self._place.streams:
            taken = await self._place.take_over(stream, silent_for=self._claim_after)
            if taken:
                log.warning("entries_taken_over", stream=stream, group=self._group, entries=taken)
                self._retry_at = 0.0
            await self._place.measure(stream)
        await self._replay()
        async with self._database.transaction() as session:
            sample = (await session.execute(STATEMENTS["sample"], {"consumer": self._group})).one()
            held_seconds.labels(self._group).set(sample.held_seconds)
            dead_letters.labels(self._group).set(sample.dead)
            if now - self._pruned_at >= _PRUNE_EVERY_SECONDS:
                values = {"consumer": self._group, "retention": self._settings.inbox_retention, "count": _PRUNE_ROWS}
                if await session.scalar(STATEMENTS["prune"], values) < _PRUNE_ROWS:  # else the next turn goes on
                    self._pruned_at = now

    async def _replay(self) -> None:
        """Handle the dead events that somebody wants replayed. Each has one try, and is dead again if that fails.

        They are given back first, so that one that ends the process does not do so for ever.
        """
        values = {"consumer": self._group, "count": self._settings.batch}
        async with self._database.transaction() as session:
            rows = (await session.execute(STATEMENTS["take_replayable"], values)).all()
        for row in sorted(rows):
            entry = Entry(
                stream=row.stream,
                id=row.entry_id,
                text=row.event,
                deliveries=self._max_deliveries,
                dead_id=row.id,
            )
            await self._process([entry])
        if len(rows) == self._settings.batch:
            self._tended_at = float("-inf")  # there may be more, after a look at what is new


def _write_line(error: Exception | None, fields: Mapping[str, Any]) -> None:
    """The delivery's canonical line; an error that nobody raised on purpose brings its traceback."""
    if error is None:
        log.info("event_processed", **fields)
    else:
        trace = None if isinstance(error, HoldfastError) else error
        log.warning("event_processed", **fields, error=f"{type(error).__name__}: {error}", exc_info=trace)
