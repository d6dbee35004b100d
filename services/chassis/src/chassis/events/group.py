"""One consumer of a Redis consumer group reads entries, acknowledges them, and takes over entries of other consumers.

This module also notices entries that Redis trimmed before the group had read or acknowledged them. The module then
deletes the stream's epoch, an id that Redis and the relay's database both store. The relay notices the missing epoch
and publishes all stored events again. The scripts are `consumer_*.lua`.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from chassis.events.outbox import operation_seconds
from chassis.logging import get_logger
from chassis.pooling import names_of
from chassis.pooling.installation import ForeignPrefix

log = get_logger(__name__)

consumer_lag = Gauge(
    "messaging_consumer_lag", "Entries of the stream that the group has not read yet.", ["stream", "group"]
)
consumer_pending = Gauge(
    "messaging_consumer_pending", "Entries that the group has read and not acknowledged yet.", ["stream", "group"]
)
missed = Counter(
    "messaging_missed",
    "Entries that Redis trimmed before the group handled them. The relay publishes them again.",
    ["stream", "group"],
)

_READ = Path(__file__).with_name("consumer_read.lua").read_text("utf-8")
_TRY = Path(__file__).with_name("consumer_try.lua").read_text("utf-8")
_TAKE_OVER = Path(__file__).with_name("consumer_take_over.lua").read_text("utf-8")
_GONE_AFTER_MS = 3_600_000
"""A consumer without entries that sends no command for an hour is removed from the group. The consumer's process has
ended, because no process pauses for an hour and then continues. A new pod uses a new consumer name, so no process needs
the removed consumer.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stream entry, or a dead event that is being replayed. `dead_id` is the dead event's number, and None for a
    stream entry.

    `deliveries` is the number of delivery attempts, including the current attempt. Redis counts an attempt when an
    entry is read, even if the process ends before it delivers the entry.
    """

    stream: str
    id: str
    text: str
    deliveries: int
    dead_id: int | None = None


class ConsumerGroup:
    """The consumer group `name` on each of `streams`. In the group, this process has the name `consumer`. One read
    returns up to `batch` entries of each stream.
    """

    def __init__(self, redis: Redis, *, name: str, consumer: str, streams: Sequence[str], batch: int) -> None:
        self.streams = streams
        self._redis = redis
        self._names = names_of(redis)
        self._owner = self._names.owner(name)
        self._installation = ""
        self.name = name
        self._consumer = consumer
        self._batch = batch
        self._read_script = redis.register_script(_READ)
        self._try_script = redis.register_script(_TRY)
        self._take_over_script = redis.register_script(_TAKE_OVER)

    async def create(self, installation: str) -> None:
        """Create the consumer group on each stream, unless the group exists.

        A new group starts at the stream's beginning. If Redis lost the group, the new group reads every entry again,
        and the inbox recognises events that were handled before. If the stream's first entries were trimmed, the group
        reports them as missed, and the relay publishes all stored events again.
        """
        self._installation = installation
        for stream in self.streams:
            try:
                await self._redis.xgroup_create(
                    self._names.stream(stream), self.name, id="0", mkstream=True, entries_read=0
                )
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def read_new(self, *, block: float) -> list[Entry]:
        """Entries that no consumer of the group has read.

        If no such entry exists, the method waits up to `block` seconds for a new entry and then returns an empty list.
        The next call reads the new entry.
        """
        found: list[Entry] = []
        read_before: dict[Any, Any] = {}
        for stream in self.streams:
            key = self._names.stream(stream)
            with operation_seconds.labels("receive", stream).time():
                answer = await self._read_script(
                    keys=[key, self._names.epoch(stream), self._owner],
                    args=[self.name, self._consumer, self._batch, self._installation],
                )
            if answer[0] == b"foreign":
                raise ForeignPrefix(self._names.prefix, self._owner, answer[1].decode())
            entries, last_id, missing = answer
            self._report_missed(stream, missing)
            read_before[key] = last_id
            found += _entries(stream, ((entry_id, _pairs(fields)) for entry_id, fields in entries), {})
        if not found:
            # This XREAD only waits for a new entry. XREAD does not change the group's position, so the script of the
            # next call still finds the entry unread.
            await self._redis.xread(read_before, count=1, block=round(block * 1000))
        return found

    async def pending(self, stream: str) -> AsyncIterator[list[Entry]]:
        """Batches of entries that this consumer has read and not acknowledged. Reading an entry again in this way is no
        delivery attempt.
        """
        key, start = self._names.stream(stream), "-"
        while True:
            page: Any = await self._redis.xpending_range(
                key, self.name, start, "+", self._batch, consumername=self._consumer
            )
            if not page:
                return
            deliveries = {entry["message_id"]: entry["times_delivered"] for entry in page}
            pipeline = self._redis.pipeline(transaction=False)
            for entry_id in deliveries:
                pipeline.xrange(key, entry_id, entry_id)
            entries = [entry for found in await pipeline.execute() for entry in found]
            await self._give_up_trimmed(stream, list(deliveries.keys() - {entry_id for entry_id, _ in entries}))
            yield _entries(stream, entries, deliveries)
            start = "(" + page[-1]["message_id"].decode()

    async def begin(self, entry: Entry) -> Entry | None:
        """Count a delivery attempt of a pending entry. Returns None if another consumer has taken the entry over."""
        (count,) = await self._count([entry], 1)
        return replace(entry, deliveries=count) if count > 0 else None

    async def take_back(self, entries: Sequence[Entry]) -> None:
        """Subtract an attempt from each entry's count, because the entry was not delivered, or because the database
        failed.
        """
        for _, found in groupby(entries, key=lambda entry: entry.stream):
            await self._count(list(found), -1)

    async def _count(self, entries: Sequence[Entry], change: int) -> Sequence[int]:
        arguments: list[str | int] = [self.name, self._consumer, change, *(entry.id for entry in entries)]
        counts: Sequence[int] = await self._try_script(keys=[self._names.stream(entries[0].stream)], args=arguments)
        return counts

    async def acknowledge(self, entries: Iterable[Entry]) -> None:
        """Acknowledge the entries, with one command for each stream."""
        for stream, found in groupby(sorted(entries, key=_stream_of), key=_stream_of):
            await self._redis.xack(self._names.stream(stream), self.name, *(entry.id for entry in found))

    async def take_over(self, stream: str, *, silent_for: float) -> int:
        """Take over entries that no consumer has tried or acknowledged for `silent_for` seconds.

        Returns the number of entries taken over.
        """
        taken, missing = await self._take_over_script(
            keys=[self._names.stream(stream), self._names.epoch(stream)],
            args=[self.name, self._consumer, round(silent_for * 1000), self._batch, _GONE_AFTER_MS],
        )
        self._report_missed(stream, missing)
        return int(taken)

    async def measure(self, stream: str) -> None:
        for group in await self._redis.xinfo_groups(self._names.stream(stream)):
            if group["name"] == self.name.encode():
                consumer_lag.labels(stream, self.name).set(group["lag"] or 0)
                consumer_pending.labels(stream, self.name).set(group["pending"])

    async def leave(self) -> None:
        """Remove this consumer from the consumer group, unless it has pending entries, which Redis would remove as
        well.
        """
        for key in map(self._names.stream, self.streams):
            if not await self._redis.xpending_range(key, self.name, "-", "+", 1, consumername=self._consumer):
                await self._redis.xgroup_delconsumer(key, self.name, self._consumer)

    async def _give_up_trimmed(self, stream: str, ids: Sequence[bytes]) -> None:
        """Acknowledge pending entries that were trimmed, and make the relay publish their events again."""
        if ids:
            # The relay publishes the events again if Redis lacks the stream's epoch, an id that the relay's database
            # stores, too. The epoch is deleted before the entries are acknowledged. After a crash between these two
            # commands, the entries are still pending, so a consumer finds them again.
            await self._redis.delete(self._names.epoch(stream))
            await self._redis.xack(self._names.stream(stream), self.name, *ids)
            self._report_missed(stream, len(ids))

    def _report_missed(self, stream: str, count: int) -> None:
        if count:
            missed.labels(stream, self.name).inc(count)
            log.warning("entries_missed", stream=stream, group=self.name, entries=count)


def _stream_of(entry: Entry) -> str:
    return entry.stream


def _entries(
    stream: str, found: Iterable[tuple[bytes, Mapping[bytes, bytes]]], deliveries: Mapping[bytes, int]
) -> list[Entry]:
    return [
        Entry(
            stream=stream,
            id=entry_id.decode(),
            # An entry may hold any bytes. PostgreSQL stores the text of a dead event but rejects a NUL, so each NUL is
            # replaced.
            text=fields.get(b"event", b"").decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}"),
            deliveries=deliveries.get(entry_id, 1),
        )
        for entry_id, fields in found
        if fields
    ]


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """The fields of an entry by name. A script in Redis returns them as one list of alternating names and values."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
