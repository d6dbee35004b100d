"""Consumes event streams: each event has its effect once, and no event is dropped silently.

Redis may deliver an event more than once. So the transaction that commits the handler's effects also inserts the
event's id into the table `inbox`. The consumer acknowledges the stream entry after the commit. A second delivery of the
event finds the id in the table and does nothing. An event that cannot be handled is stored in the table `dead_event`
with the reason. An operator can replay a dead event (`chassis.events.dead_events`).

Events of one aggregate (for example, one order) may reach handlers out of order, since several consumers of a group
work at the same time. A handler that needs the order calls `chassis.events.inbox.in_order`, or compares the versions of
the events.

This module decides when each stream entry is delivered. `chassis.events.delivery` delivers one entry, and
`chassis.events.group` sends the commands of the consumer group to Redis. Handlers call the functions of
`chassis.events.inbox`.
"""

import asyncio
import os
import random
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice

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
held_seconds = Gauge(
    "messaging_held_oldest_age_seconds",
    "Seconds that the oldest event has waited for an earlier event of its aggregate.",
    ["group"],
)

_MOST_TOGETHER = 20
"""The largest number of events that one transaction handles. A transaction of more events costs hardly less per event,
and holds the locks of its rows longer."""
_PRUNE_ROWS = 10_000
_PRUNE_EVERY_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 30.0


class Consumer:
    """Reads `streams` as one consumer of a Redis consumer group, and calls a handler for one event at a time.

    Up to 20 of the events that one read returns are handled in one transaction. If one of their handlers fails, this
    transaction rolls back, and each event is delivered alone in a separate transaction. While any event waits for a
    retry, every event is delivered alone.

    `handlers` maps payload types to handlers, each called as `await handler(session, received)`. Events of other types
    are acknowledged and skipped. A handler uses only the given session, makes no network call, and raises
    `Undeliverable` for an event that can never succeed. After any other exception the transaction rolls back, and the
    event is delivered again after a growing pause. After `max_deliveries` failed deliveries the event is dead: it is
    stored in the table `dead_event` and not delivered again. A delivery that fails because the database is unreachable
    or busy does not count as a failed delivery. Until an event is handled or dead, later events of its aggregate wait.
    Events of other aggregates are delivered.

    Another consumer may take over an entry that this consumer has neither tried nor acknowledged for `claim_after`
    seconds. `random` (uniform on [0, 1)) varies the pauses.
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
        self._retry_at: float | None = 0.0  # monotonic time of the retry of pending entries; None if none waits
        self._waiting: set[tuple[str, str]] = set()  # (stream, aggregate id) of events that wait
        self._replay_again: list[int] = []  # ids of dead events whose replay was postponed
        self._stopping = asyncio.Event()
        self._tended_at = self._pruned_at = float("-inf")

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume events until `stopping` is set, then finish the current batch. In an outage, pause and try again."""
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
                # Many aggregates wait for a retry, so most new entries would probably have to wait, too. The consumer
                # reads no new entries until the retry.
                await wait_or_poll(stopping, interval=self._retry_at - time.monotonic())
            else:
                await self._process(await self._group.read_new(block=self._settings.poll_interval))

    async def _retry_pending(self) -> None:
        """Retry, one by one, the entries that this consumer has read and not acknowledged.

        An entry with many attempts may have killed the previous process, so such entries are tried last. If such an
        entry kills this process too, all other entries have been tried before. The first step pings the database: in an
        outage, the ping raises an error, so that no attempt is counted.
        """
        await self._database.ping()
        self._retry_at = None
        self._waiting.clear()
        for stream in self._group.streams:
            async for page in self._group.pending(stream):
                for entry, received in await self._in_retry_order(page):
                    if not self._must_wait(entry, received) and (begun := await self._group.begin(entry)):
                        await self._deliver(begun, received)
        self._plan()

    async def _in_retry_order(self, entries: Sequence[Entry]) -> list[tuple[Entry, Received[Event]]]:
        """The events that have a handler, in the order in which they are retried.

        The aggregate whose first event has had the fewest delivery attempts comes first. The events of one aggregate
        stay in order.
        """
        aggregates: dict[str, list[tuple[Entry, Received[Event]]]] = {}
        for entry in entries:
            if not await self._deliveries.is_spent(entry) and (received := await self._deliveries.read(entry)):
                aggregates.setdefault(received.aggregate_id, []).append((entry, received))
        least_tried_first = sorted(aggregates.values(), key=lambda aggregate: aggregate[0][0].deliveries)
        return [pair for aggregate in least_tried_first for pair in aggregate]

    async def _process(self, entries: Sequence[Entry]) -> None:
        """Deliver new entries in order, several in one transaction. If the delivery of one of them fails, each of them
        is delivered alone.

        Redis counts a delivery attempt of an entry when the entry is read. If this method does not deliver an entry, it
        subtracts the attempt again.
        """
        left: list[Entry] = []
        untried, events = deque(entries), deque[tuple[Entry, Received[Event]]]()
        try:
            while untried:
                entry = untried.popleft()
                if received := await self._deliveries.read(entry):
                    events.append((entry, received))
            while events:
                together = tuple(islice(events, _MOST_TOGETHER))
                if len(together) > 1 and not self._waiting and await self._deliveries.deliver_together(together):
                    for _ in together:
                        events.popleft()
                    continue
                for _ in together:
                    entry, received = events.popleft()
                    if self._must_wait(entry, received):
                        left.append(entry)
                    else:
                        await self._deliver(entry, received)
        finally:
            await self._group.take_back([*left, *(entry for entry, _ in events), *untried])
        self._plan()

    def _must_wait(self, entry: Entry, received: Received[Event]) -> bool:
        """Whether the entry has to wait for a later retry.

        An entry waits if an earlier event of its aggregate waits. While this consumer stops, one waiting event makes
        all further entries wait. Another consumer of the group then takes the waiting entries over.
        """
        is_behind = (entry.stream, received.aggregate_id) in self._waiting
        return is_behind or (bool(self._waiting) and self._stopping.is_set())

    async def _deliver(self, entry: Entry, received: Received[Event]) -> None:
        outcome = await self._deliveries.deliver(entry, received)
        if outcome in ("failed", "postponed"):
            self._waiting.add((entry.stream, received.aggregate_id))
        if outcome == "postponed":
            await self._group.take_back([entry])
            # In an outage, the ping raises an error, so the consumer tries no further entry. If the database is only
            # busy, the ping succeeds.
            await self._database.ping()

    def _plan(self) -> None:
        """Set the time of the next retry, if any entry waits for a retry."""
        if not self._waiting:
            self._failures = 0
        elif self._retry_at is None:
            self._retry_at = time.monotonic() + self._pause()

    def _pause(self) -> float:
        """Seconds until the next attempt: a random backoff, whose upper limit grows with each failure in a row."""
        self._failures += 1
        return full_jitter(self._failures - 1, base=1.0, cap=_MAX_PAUSE_SECONDS, random=self._random)

    async def _tend(self) -> None:
        """Take over entries that other consumers left idle, replay dead events, set the gauges, and prune the inbox.

        The method does this every `claim_after` / 5 seconds, and returns at once if it is called earlier.
        """
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
                # If the statement deletes `_PRUNE_ROWS` ids, more ids may have expired, and the next call deletes them.
                if await session.scalar(STATEMENTS["prune"], values) < _PRUNE_ROWS:
                    self._pruned_at = now

    async def _replay(self) -> None:
        """Replay the dead events whose replay was requested.

        Each event has one attempt, and is dead again if the attempt fails. The request is deleted before its event is
        replayed, so an event that kills the process does so only once. The method deletes the requests one at a time,
        so the other requests survive when the process is killed.
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
        self._tended_at = float("-inf")  # more requests may exist, so the next call of `_tend` does not wait
