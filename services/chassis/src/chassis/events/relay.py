"""The relay publishes the outbox of one database to Redis Streams. Afterwards it marks the published events, in the
statement that reads the next events.

After a crash between these two steps, the relay publishes the unmarked events again, so no event is lost. Redis may
lose data. The relay notices when Redis was emptied or restored from an older snapshot. Consumers
(`chassis.events.consumer`) notice when Redis trimmed entries that the consumers had not read yet. In both cases, the
relay publishes again every event that is still stored in the outbox.

A stream's epoch is an id that PostgreSQL and Redis both store. If Redis has lost the epoch, or a consumer has deleted
it because entries were missing, the relay begins a new epoch and publishes the stream again. The leader is the one
relay that publishes, while the other relays of the database wait. Each new leader gets a higher number, its term.

The statements are in `outbox.sql`. `sending` publishes a batch to Redis.
"""

import asyncio
import time
from dataclasses import replace
from functools import partial
from uuid import uuid4

import asyncpg
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chassis.config.settings import DatabaseSettings, OutboxSettings
from chassis.events.floors import Floors
from chassis.events.open_transactions import OpenTransactions
from chassis.events.outbox import STATEMENTS, WAKEUP_CHANNEL
from chassis.events.positions import Position, repeat_after_batch
from chassis.events.sending import Deposed, Sender
from chassis.logging import get_logger
from chassis.pooling import Passwords, is_transient
from chassis.pooling.wakeup import Wakeups, connect, wait_or_poll
from chassis.process.background import Group

log = get_logger(__name__)

published = Counter("outbox_published", "Published events, including repeated ones.", ["stream"])
republished = Counter(
    "outbox_republished", "Events that were published again, because Redis had lost their stream.", ["stream"]
)
# A gauge with a label exposes no value until its label is set. So a process without a relay exposes no value for these
# gauges. A value of 0 would look like a lost leader.
lag_seconds = Gauge("outbox_lag_seconds", "Seconds that the oldest unpublished event has waited.", ["database"])
unpublished = Gauge("outbox_unpublished", "Events that wait to be published.", ["database"])
is_leader = Gauge(
    "outbox_is_leader", "1 if the relay of this process publishes, 0 if it waits to take over.", ["database"]
)
is_held_back = Gauge(
    "outbox_held_back", "1 while events wait because a group's unread entries fill the stream.", ["stream"]
)

GATHER_SECONDS = 0.05
"""The relay gathers events for this time after each batch. Under a steady load an event waits half of this time on
average.
"""
_PRUNE_EVERY_SECONDS = 60.0
_PRUNE_ROWS = 10_000
"""The largest number of rows that one statement deletes. The deletion of so many rows takes about 50 ms."""


class Relay:
    """Publishes the outbox of one database. An advisory lock elects one leader among the processes that run a relay.

    A relay takes the lock, reads events and marks events on one connection. PostgreSQL frees the lock only when this
    connection ends. So a relay that has lost the lock can no longer read or mark events. When a leader is killed,
    another relay takes over within `poll_interval`. When the leader's process is suspended or its host disappears,
    another relay takes over after `leader_timeout`. If the old leader then continues, the script in Redis refuses its
    events, because the new leader has published with a higher term. The database counts the terms, so leadership does
    not depend on a clock.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        redis: Redis,
        settings: OutboxSettings,
        *,
        service: str,
        wakeups: Wakeups,
        application_name: str = "relay",
        passwords: Passwords | None = None,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._settings = settings
        self._application_name = application_name
        self._sender = Sender(redis, service=service, max_length=settings.stream_max_length)
        self._floors = Floors()
        self._positions: dict[str, Position] = {}
        self._leads = False
        # While this relay leads, it reads the events that its own process stores, so these events need no notification.
        self._woken = wakeups.subscribe(WAKEUP_CHANNEL, reads_now=lambda: self._leads)
        self._open_transactions = OpenTransactions(database.name)
        self._looked_at = self._measured_at = self._pruned_at = float("-inf")
        self._is_leader, self._lag_seconds, self._unpublished = (
            gauge.labels(database.name) for gauge in (is_leader, lag_seconds, unpublished)
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish events until `stopping` is set. Then publish the events that are already committed, and return."""
        async with Group() as tasks:
            wake = tasks.start(partial(self._wake_when, stopping), name="wake")
            while not stopping.is_set():
                try:
                    await self._lead_until(stopping)
                except Exception as error:
                    if not (isinstance(error, Deposed) or is_transient(error)):
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
            await connection.execute(STATEMENTS["tie_to_silence"], str(round(self._settings.leader_timeout * 1000)))
            while not await connection.fetchval(STATEMENTS["lead"]):
                if stopping.is_set():
                    return
                await wait_or_poll(stopping, interval=self._settings.poll_interval)
            self._floors, self._positions = Floors(), {}
            ((term, installation),) = await connection.fetch(STATEMENTS["next_term"])
            self._sender.term, self._sender.installation = term, installation
            self._leads = True
            self._is_leader.set(1)
            log.info("outbox_leadership_taken", term=term)
            await self._relay_until(connection, stopping)
        except Deposed as error:
            # Redis has stored a higher term. If a later leader took over, PostgreSQL has ended this session, and the
            # next statement fails. If the statement succeeds, this session still holds the lock, so no later leader
            # exists. In this case the term in the database was too low, and the statement increases the term.
            await connection.execute(STATEMENTS["raise_term"], error.term)
            raise
        finally:
            self._leads = False
            for gauge in (self._is_leader, self._lag_seconds, self._unpublished):
                gauge.set(0)  # only the leader reports a value other than 0
            is_held_back.clear()
            self._open_transactions.forget()
            await _close(connection)

    async def _relay_until(self, connection: asyncpg.Connection, stopping: asyncio.Event) -> None:
        """Publish a batch of each stream after each wake-up, and every `poll_interval`.

        The first event after a pause goes out at once. Then the relay gathers events for `GATHER_SECONDS` before it
        reads again, so that one statement marks and reads the events of many transactions.
        """
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
            if is_full or stopping.is_set():
                continue
            if all(position.is_stored for position in self._positions.values()):
                await wait_or_poll(self._woken, interval=self._settings.poll_interval)
            else:
                await wait_or_poll(stopping, interval=GATHER_SECONDS)
        await self._mark(connection)

    async def _relay_once(self, connection: asyncpg.Connection) -> bool:
        """Publish one batch of each stream. Returns whether any stream may have more events.

        Every `poll_interval` the method also looks for new streams, and checks the streams without new events in Redis,
        because Redis may have lost entries that consumers have not read yet.
        """
        is_look = not self._positions or time.monotonic() - self._looked_at >= self._settings.poll_interval
        if is_look:
            await self._look(connection)
        is_full = False
        for position in tuple(self._positions.values()):
            is_full = await self._relay_stream(connection, position, asks_redis=is_look) or is_full
        return is_full

    async def _look(self, connection: asyncpg.Connection) -> None:
        """Read the position of each stream: how far the relay has published it."""
        await self._mark(connection)
        self._looked_at = time.monotonic()
        rows = await connection.fetch(STATEMENTS["positions"], self._floors.new_streams_from)
        self._floors.note_streams(row["stream"] for row in rows)
        self._positions = {row["stream"]: Position(**row) for row in rows if row["epoch"] is not None}
        for row in rows:
            if row["epoch"] is None:
                await self._restart(connection, row["stream"])

    async def _relay_stream(self, connection: asyncpg.Connection, position: Position, *, asks_redis: bool) -> bool:
        stream, batch = position.stream, self._settings.batch
        before = position.repeat_after, self._floors.of(stream), position.unmarked, position.last_id
        rows = await connection.fetch(STATEMENTS["next"], stream, batch, *before)
        self._positions[stream] = position = replace(position, unmarked=(), is_stored=True)
        if not rows and not asks_redis and position.repeat_after is None:
            self._floors.note_batch(stream, [], published=0)
            return False
        sent = await self._sender.send(position, [row["event"] for row in rows])
        if sent is None:
            await self._restart(connection, stream)
            log.warning("outbox_stream_forgotten", stream=stream)
            return True
        self._report_held_back(stream, sent.held_back_by)
        done = rows[: sent.count]
        is_full = sent.count == batch
        repeat_after = repeat_after_batch(position, done, is_over=not is_full and not sent.held_back_by)
        if done or (sent.last_id, repeat_after) != (position.last_id, position.repeat_after):
            self._positions[stream] = replace(
                position,
                last_id=sent.last_id,
                repeat_after=repeat_after,
                unmarked=[row["seq"] for row in done],
                is_stored=False,
            )
            published.labels(stream).inc(sent.count)
            republished.labels(stream).inc(sum(row["is_repeated"] for row in done))
        if position.repeat_after is None:
            self._floors.note_batch(stream, [row["seq"] for row in rows], published=sent.count)
        return is_full or repeat_after != position.repeat_after

    async def _mark(self, connection: asyncpg.Connection) -> None:
        """Mark the published events, and store the positions, without reading further events."""
        for stream, position in self._positions.items():
            if not position.is_stored:
                values = position.unmarked, position.last_id, position.repeat_after
                await connection.execute(STATEMENTS["mark"], stream, *values)
                self._positions[stream] = replace(position, unmarked=(), is_stored=True)

    async def _restart(self, connection: asyncpg.Connection, stream: str) -> None:
        """Give the stream a new epoch (an id that PostgreSQL and Redis both store): store a new id in PostgreSQL. The
        next batch of events writes this id to Redis.
        """
        epoch = str(uuid4())
        await connection.execute(STATEMENTS["restart"], stream, epoch)
        self._positions[stream] = Position(stream=stream, epoch=epoch, last_id="", repeat_after=0)

    def _report_held_back(self, stream: str, group: str) -> None:
        gauge = is_held_back.labels(stream)
        if group:
            gauge.set(1)
            log.warning("outbox_held_back", stream=stream, group=group)
        else:
            gauge.set(0)

    async def _tend(self, connection: asyncpg.Connection) -> None:
        """Measure the lag every `poll_interval`, and delete expired events once a minute."""
        now = time.monotonic()
        if now - self._measured_at >= self._settings.poll_interval:
            self._measured_at = now
            await self._mark(connection)
            await self._floors.look(connection)
            (lag,) = await connection.fetch(STATEMENTS["lag"], self._floors.lowest)
            self._lag_seconds.set(lag["seconds"])
            self._unpublished.set(lag["events"])
        await self._open_transactions.measure(connection)
        if now - self._pruned_at >= _PRUNE_EVERY_SECONDS:
            self._floors.forget()
            count = await connection.fetchval(STATEMENTS["prune"], self._settings.retention, _PRUNE_ROWS)
            # If the statement deletes `_PRUNE_ROWS` rows, more rows may have expired, and the next round deletes them.
            if count < _PRUNE_ROWS:
                self._pruned_at = now


async def _close(connection: asyncpg.Connection) -> None:
    """Close the connection, so that the next leader gets the lock at once."""
    try:
        await connection.close(timeout=1)
    except Exception as error:
        if not is_transient(error):
            raise
