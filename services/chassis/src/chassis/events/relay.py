"""The relay publishes the outbox of one database to Redis Streams, and marks the published events afterwards.

After a crash between these two steps, the relay publishes the unmarked events again, so no event is lost. Redis may
lose data. The relay notices when Redis was emptied or restored from an older snapshot. Consumers
(`chassis.events.consumer`) notice when Redis trimmed entries that the consumers had not read yet. In both cases, the
relay publishes again every event that is still stored in the outbox.

A stream's epoch is an id that PostgreSQL and Redis both store. If Redis has lost the epoch, or a consumer has deleted
it because entries were missing, the relay begins a new epoch and publishes the stream again. The leader is the one
relay that publishes, while the other relays of the database wait. Each new leader gets a higher number, its term.

The statements are in `outbox.sql`, and the script that publishes is `outbox.lua`.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import asyncpg
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chassis.config.settings import DatabaseSettings, OutboxSettings
from chassis.errors import HoldfastError
from chassis.events.floors import Floors
from chassis.events.outbox import STATEMENTS, WAKEUP_CHANNEL, operation_seconds
from chassis.events.positions import Position, repeat_after_batch
from chassis.logging import get_logger
from chassis.pooling import Passwords, is_transient, names_of
from chassis.pooling.installation import ForeignPrefix
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

_SCRIPT = Path(__file__).with_name("outbox.lua").read_text("utf-8")
_PRUNE_EVERY_SECONDS = 60.0
_PRUNE_ROWS = 10_000
"""The largest number of rows that one statement deletes. The deletion of so many rows takes about 50 ms."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """The stream's last id, and the number of published events.

    `held_back_by` is the group whose unread entries fill the stream, so that the relay publishes no further events. The
    value is '' if no group holds the relay back.
    """

    last_id: str
    count: int
    held_back_by: str


class _Deposed(HoldfastError):
    """A later leader, which has a higher `term`, took over and published while this leader was cut off or suspended."""

    def __init__(self, stream: str, term: int) -> None:
        super().__init__(f"a leader of term {term} has published to {stream}")
        self.term = term


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
        self._names = names_of(redis)
        self._service = service
        self._settings = settings
        self._application_name = application_name
        self._publish_script = redis.register_script(_SCRIPT)
        self._floors = Floors()
        self._leads = False
        # Only the leader publishes, so an event of the leader's own process needs no notification.
        self._woken = wakeups.subscribe(WAKEUP_CHANNEL, reads_now=lambda: self._leads)
        self._term = 0
        self._installation = ""
        self._measured_at = self._pruned_at = float("-inf")
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
            await connection.execute(STATEMENTS["tie_to_silence"], str(round(self._settings.leader_timeout * 1000)))
            while not await connection.fetchval(STATEMENTS["lead"]):
                if stopping.is_set():
                    return
                await wait_or_poll(stopping, interval=self._settings.poll_interval)
            self._floors = Floors()
            ((self._term, self._installation),) = await connection.fetch(STATEMENTS["next_term"])
            self._leads = True
            self._is_leader.set(1)
            log.info("outbox_leadership_taken", term=self._term)
            await self._relay_until(connection, stopping)
        except _Deposed as error:
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
        """Publish one batch of each stream. Returns whether any stream may have more events.

        The method also checks streams without new events, because Redis may have lost entries that consumers have not
        read yet.
        """
        is_full = False
        rows = await connection.fetch(STATEMENTS["positions"], self._floors.lowest)
        self._floors.note_streams(row["stream"] for row in rows)
        for row in rows:
            position = await self._restart(connection, row["stream"]) if row["epoch"] is None else Position(**row)
            is_full = await self._relay_stream(connection, position) or is_full
        return is_full

    async def _relay_stream(self, connection: asyncpg.Connection, position: Position) -> bool:
        stream, batch = position.stream, self._settings.batch
        rows = await connection.fetch(STATEMENTS["next"], stream, batch, position.repeat_after, self._floors.of(stream))
        sent = await self._send(position, [row["event"] for row in rows])
        if sent is None:
            await self._restart(connection, stream)
            log.warning("outbox_stream_forgotten", stream=stream)
            return True
        self._report_held_back(stream, sent.held_back_by)
        done = rows[: sent.count]
        is_full = sent.count == batch
        repeat_after = repeat_after_batch(position, done, is_over=not is_full and not sent.held_back_by)
        if done or (sent.last_id, repeat_after) != (position.last_id, position.repeat_after):
            done_seqs = [row["seq"] for row in done]
            await connection.execute(STATEMENTS["mark"], stream, done_seqs, sent.last_id, repeat_after)
            published.labels(stream).inc(sent.count)
            republished.labels(stream).inc(sum(row["is_repeated"] for row in done))
        if position.repeat_after is None:
            self._floors.note_batch(stream, [row["seq"] for row in rows], published=sent.count)
        return is_full or repeat_after != position.repeat_after

    async def _send(self, position: Position, events: Sequence[str]) -> _Sent | None:
        """Publish the events. Returns None when Redis has lost entries of the stream.

        Raises `_Deposed` if a later leader has published, and `ForeignPrefix` if another database uses the same key
        prefix.
        """
        stream = position.stream
        arguments: list[str | int] = [
            position.epoch,
            position.last_id,
            self._term,
            self._settings.stream_max_length,
            self._installation,
            *events,
        ]
        names = self._names
        owner = names.owner(self._service)
        keys = [names.stream(stream), names.epoch(stream), names.term(stream), owner]
        with operation_seconds.labels("send", stream).time():
            answer = await self._publish_script(keys=keys, args=arguments)
        match answer:
            case [b"published", last_id, count, slowest]:
                return _Sent(last_id.decode(), count, slowest.decode())
            case [b"forgotten"]:
                return None
            case [b"deposed", term]:
                raise _Deposed(stream, term)
            case _:
                raise ForeignPrefix(names.prefix, owner, answer[1].decode())

    async def _restart(self, connection: asyncpg.Connection, stream: str) -> Position:
        """Begin a new epoch of the stream: store a new id in PostgreSQL. The next batch of events writes this id to
        Redis.
        """
        epoch = str(uuid4())
        await connection.execute(STATEMENTS["restart"], stream, epoch)
        return Position(stream=stream, epoch=epoch, last_id="", repeat_after=0)

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
            await self._floors.look(connection)
            (lag,) = await connection.fetch(STATEMENTS["lag"], self._floors.lowest)
            self._lag_seconds.set(lag["seconds"])
            self._unpublished.set(lag["events"])
        if now - self._pruned_at >= _PRUNE_EVERY_SECONDS:
            self._floors.forget()
            count = await connection.fetchval(STATEMENTS["prune"], self._settings.retention, _PRUNE_ROWS)
            # If the statement deletes `_PRUNE_ROWS` rows, more may have expired, and the next round deletes them.
            if count < _PRUNE_ROWS:
                self._pruned_at = now


async def _close(connection: asyncpg.Connection) -> None:
    """Close the connection, so that the next leader gets the lock at once."""
    try:
        await connection.close(timeout=1)
    except Exception as error:
        if not is_transient(error):
            raise
