"""Consuming event streams: each event has its effect once, and none is given up silently.

Redis delivers at least once. An inbox row with the event's id commits together with the handler's effects, and the
entry is acknowledged afterwards: a second delivery finds the row and does nothing. An event that cannot be handled goes
to the table `dead_event` with its reason, from where `chassis.events.dead_events` has it replayed.

Events of one aggregate may reach handlers out of order: another consumer of the group may be quicker. A handler that
needs the order takes `chassis.events.inbox.in_order`, or compares versions.

A handler's side of it is `chassis.events.inbox`, one delivery `chassis.events.delivery`, the group's side in Redis
`chassis.events.group`; the statements are in `inbox.sql`.
"""

import asyncio
import os
import random
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chassis.config.settings import OutboxSettings
from chassis.events.delivery import Deliveries, Handler
from chassis.events.group import ConsumerGroup, Entry
from chassis.events.inbox import STATEMENTS, Received
from chassis.events.outbox import Event
from chassis.logging import get_logger
from chassis.pooling import Database, is_transient
from chassis.pooling.installation import installation_id
from chassis.pooling.wakeup import wait_or_poll
from chassis.retries import full_jitter

log = get_logger(__name__)

dead_letters = Gauge("messaging_dead_letters", "Events that this group could not handle.", ["group"])
held_seconds = Gauge("messaging_held_oldest_age_seconds", "How long the oldest held event has waited.", ["group"])

_PRUNE_ROWS = 10_000
_PRUNE_EVERY_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 30.0


class Consumer:
    """One consumer of a group: reads `streams` and calls `await handler(session, received)` for each event, in turn.

    `handlers` maps payload types to handlers; other types are acknowledged and skipped. A handler works in the given
    session alone, makes no network call, and raises `Undeliverable` for an event that can never succeed. Anything else
    that it raises rolls back, and the event is delivered again with growing pauses, `max_deliveries` times; then it is
    a dead letter. Meanwhile later events of its aggregate wait, and others go on. An outage of the database is not
    counted, nor a lock. `claim_after` is the time in seconds after which entries of a silent consumer are taken over.
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
        random: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._settings = settings
        self._group = ConsumerGroup(
            redis,
            name=group,
            consumer=name or f"{socket.gethostname()}:{os.getpid()}",
            streams=streams,
            batch=settings.batch,
        )
        self._deliveries = Deliveries(database, self._group, handlers, max_deliveries=max_deliveries)
        self._max_deliveries = max_deliveries
        self._claim_after = claim_after
        self._random = random
        self._failures = 0
        self._retry_at: float | None = 0.0  # when to take up again what was delivered to us and not acknowledged
        self._waiting: set[tuple[str, str]] = set()  # aggregates, by stream, whose first pending event has failed
        self._replay_again: list[int] = []  # dead events whose replay an outage or a lock has ended
        self._stopping = asyncio.Event()
        self._tended_at = self._pruned_at = float("-inf")

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until `stopping` is set, and finish the batch. Outages of Redis or PostgreSQL are sat out."""
        self._stopping = stopping
        while not stopping.is_set():
            try:
                await self._group.create(await installation_id(self._database))
                await self._consume_until(stopping)
            except Exception as error:
                if not (isinstance(error, RedisError) or is_transient(error)):
                    raise
                log.warning("consumer_interrupted", group=self._group.name, error=f"{type(error).__name__}: {error}")
                self._retry_at = 0.0
                await wait_or_poll(stopping, interval=self._pause())
        with suppress(RedisError):
            await self._group.leave()

    async def _consume_until(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._tend()
            if self._retry_at is not None and time.monotonic() >= self._retry_at:
                await self._retry_pending()
            elif self._retry_at is not None and len(self._waiting) >= self._settings.batch:
                await wait_or_poll(stopping, interval=self._retry_at - time.monotonic())  # more would only wait, too
            else:
                await self._process(await self._group.read_new(block=self._settings.poll_interval))

    async def _retry_pending(self) -> None:
        """Take up again, one by one, what was delivered to this consumer and not acknowledged.

        An entry that was tried often may be what ended the process before this one. It comes last, so that it takes
        no other one with it. The database is asked first: nothing can be tried without it.
        """
        await self._database.ping()
        self._retry_at = None
        self._waiting.clear()
        for stream in self._group.streams:
            async for page in self._group.pending(stream):
                for aggregate in sorted(await self._by_aggregate(page), key=lambda them: them[0][0].deliveries):
                    for entry, received in aggregate:
                        if not self._must_wait(entry, received) and (begun := await self._group.begin(entry)):
                            await self._deliver(begun, received)
        self._plan()

    async def _by_aggregate(self, entries: Sequence[Entry]) -> Sequence[list[tuple[Entry, Received[Event]]]]:
        """What of the entries there is to try, each aggregate's in order."""
        found: dict[str, list[tuple[Entry, Received[Event]]]] = {}
        for entry in entries:
            if not await self._deliveries.is_spent(entry) and (received := await self._deliveries.read(entry)):
                found.setdefault(received.aggregate_id, []).append((entry, received))
        return list(found.values())

    async def _process(self, entries: Sequence[Entry]) -> None:
        """New entries, in order. Redis has counted a try for each; those that get none have it taken back."""
        left: list[Entry] = []
        untried = deque(entries)
        try:
            while untried:
                entry = untried.popleft()
                received = await self._deliveries.read(entry)
                if received is not None:
                    if self._must_wait(entry, received):
                        left.append(entry)
                    else:
                        await self._deliver(entry, received)
        finally:
            await self._group.take_back([*left, *untried])
        self._plan()

    def _must_wait(self, entry: Entry, received: Received[Event]) -> bool:
        """For an earlier event of its aggregate; or for another consumer, when this one stops and events fail."""
        is_behind = (entry.stream, received.aggregate_id) in self._waiting
        return is_behind or (bool(self._waiting) and self._stopping.is_set())

    async def _deliver(self, entry: Entry, received: Received[Event]) -> None:
        outcome = await self._deliveries.deliver(entry, received)
        if outcome in ("failed", "postponed"):
            self._waiting.add((entry.stream, received.aggregate_id))
        if outcome == "postponed":
            await self._group.take_back([entry])
            await self._database.ping()  # raises in an outage; the database that answers was busy with this one alone

    def _plan(self) -> None:
        """When to try again what failed."""
        if not self._waiting:
            self._failures = 0
        elif self._retry_at is None:
            self._retry_at = time.monotonic() + self._pause()

    def _pause(self) -> float:
        """Seconds until the next try: full jitter, longer with each failure in a row."""
        self._failures += 1
        return full_jitter(self._failures - 1, base=1.0, cap=_MAX_PAUSE_SECONDS, random=self._random)

    async def _tend(self) -> None:
        """Now and then: take over from silent consumers, measure, and forget old event ids."""
        now = time.monotonic()
        if now - self._tended_at < self._claim_after / 5:
            return
        self._tended_at = now
        for stream in self._group.streams:
            taken = await self._group.take_over(stream, silent_for=self._claim_after)
            if taken:
                log.warning("entries_taken_over", stream=stream, group=self._group.name, entries=taken)
                self._retry_at = 0.0
            await self._group.measure(stream)
        await self._replay()
        async with self._database.transaction() as session:
            sample = (await session.execute(STATEMENTS["sample"], {"consumer": self._group.name})).one()
            held_seconds.labels(self._group.name).set(sample.held_seconds)
            dead_letters.labels(self._group.name).set(sample.dead)
            if now - self._pruned_at >= _PRUNE_EVERY_SECONDS:
                values = {
                    "consumer": self._group.name,
                    "retention": self._settings.inbox_retention,
                    "count": _PRUNE_ROWS,
                }
                if await session.scalar(STATEMENTS["prune"], values) < _PRUNE_ROWS:  # else the next turn goes on
                    self._pruned_at = now

    async def _replay(self) -> None:
        """Handle the dead events that are to be replayed. Each has one try, and is dead again if that fails.

        The wish is deleted first, so that an event that ends the process does so once. One at a time, so that it takes
        no other's wish with it.
        """
        for _ in range(self._settings.batch):
            async with self._database.transaction() as session:
                await session.execute(STATEMENTS["ask_for_replay"], {"ids": self._replay_again})
                row = (
                    await session.execute(STATEMENTS["take_replayable"], {"consumer": self._group.name})
                ).one_or_none()
            self._replay_again.clear()
            if row is None:
                return
            entry = Entry(
                stream=row.stream, id=row.entry_id, text=row.event, deliveries=self._max_deliveries, dead_id=row.id
            )
            received = await self._deliveries.read(entry)
            if received is not None and await self._deliveries.deliver(entry, received) == "postponed":
                self._replay_again.append(row.id)
                return
        self._tended_at = float("-inf")  # there may be more, after a look at what is new
