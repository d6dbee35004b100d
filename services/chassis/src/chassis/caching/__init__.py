"""Caching: cache-aside whose cold keys cost one load, whose invalidations win over loads begun before them.

    read ─ owed ────▶ one load in this process: Redis has not taken an invalidation yet
         ─ near ────▶ value, read by this process less than `near_ttl` ago: for values that may be so much older
         ─ fresh ───▶ value; near its end one reader of many renews it in the background (XFetch)
         ─ stale ───▶ value, and one load in the background
         ─ expired ─▶ one load; the old value if that fails
         ─ nothing ─▶ one load in this process (a flight), and among all processes one that holds the key's lease
         ─ Redis fails ▶ one load in this process, few at once, nothing stored

The lease is lock and version in one: a random token beside the value, without which nothing is stored. Whoever
changes the origin commits, then invalidates, which deletes value and lease in one command. Memcached's leases are
the source: Nishtala et al., Scaling Memcache at Facebook, NSDI 2013, section 3.2.1.

`entries` decides what a stored value is worth, `store` has all that is done on Redis, `flights` the loads under way,
`near` what was read lately, `owed` the invalidations that Redis has not taken.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any, Literal, overload
from uuid import uuid4

from prometheus_client import Counter, Histogram
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from chassis.caching.entries import ABSENT, Entry, Worth, judge, kept_for, new_entry
from chassis.caching.flights import Flights, Loaded
from chassis.caching.near import Near
from chassis.caching.owed import Owed
from chassis.caching.store import STORE_ERRORS, Store
from chassis.config.settings import CacheSettings
from chassis.errors import ApiError, ErrorCode
from chassis.logging import add_to_canonical_line, get_logger
from chassis.retries import deadlines

log = get_logger(__name__)

requests = Counter(
    "cache_requests",
    "Reads by result (hit, miss, stale, negative, bypass); error: Redis failed or a value was unreadable.",
    ["cache", "result"],
)
recompute_seconds = Histogram(
    "cache_recompute_duration_seconds",
    "Time the origin took to load a value, or to fail.",
    ["cache"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
staleness_seconds = Histogram(
    "cache_staleness_seconds",
    "Age of the values answered from the cache, since their loads began: the most that the origin can be ahead.",
    ["cache"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 90, 120, 300, 600),
)

# Seconds between looks at a key that another process loads: about what a load takes, and 50 looks a second at most.
POLL_SECONDS = 0.02

type Result = Literal["hit", "negative", "stale", "miss", "bypass", "error"]
type Loader[T] = Callable[[], Awaitable[T | None]]

_RESULTS: tuple[Result, ...] = ("hit", "negative", "stale", "miss", "bypass", "error")


class Cache[T]:
    """The values of one kind, under `name`: unique on this Redis, so it starts with the service's.

    What is stored carries the fingerprint of T's schema: releases that disagree on it do not read each other's values.
    The time-out of `redis` bounds each step on it. A loader returns None for "there is none", which is remembered for
    `negative_ttl`; it opens its own connection and has its own time-out, since it is shared with other readers and may
    outlive the request that started it.

    `near_ttl` (seconds): a process answers from its own memory what it read so lately. An invalidation takes hold so
    much later, and readers share the decoded value, which none of them may change.
    """

    def __init__(
        self,
        redis: Redis,
        adapter: TypeAdapter[T],
        settings: CacheSettings,
        *,
        name: str,
        near_ttl: float = 0.0,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._adapter = adapter
        self._settings = settings
        self._name = name
        self._chance = chance
        self._clock = clock
        self._store = Store(redis, name=name, field=_fingerprint(adapter))
        self._near = Near(ttl=near_ttl)
        self._decoded = lru_cache(maxsize=128 if near_ttl else 0)(adapter.validate_json)
        self._flights = Flights()
        kept = settings.ttl + settings.stale_if_error + settings.lock_ttl  # a load under way may store until then
        self._owed = Owed(self._store.delete, kept=kept)
        self._invalidations: set[asyncio.Task[None]] = set()
        self._bypass_slots = asyncio.Semaphore(settings.bypass_concurrency)
        self._counters = {result: requests.labels(name, result) for result in _RESULTS}
        self._staleness = staleness_seconds.labels(name)

    @overload
    async def get_or_load(self, key: str, loader: Callable[[], Awaitable[T]]) -> T: ...
    @overload
    async def get_or_load(self, key: str, loader: Loader[T]) -> T | None: ...
    async def get_or_load(self, key: str, loader: Loader[T]) -> T | None:
        """The value of `key`, from the cache or from `loader`; None when there is none. As `get_or_load_json`."""
        payload = await self.get_or_load_json(key, loader)
        try:
            return self._decode(payload)
        except ValidationError:
            # T takes less than when this was stored, though its schema is the same: rather load it than fail.
            self._count("error")
            await self._invalidate_or_warn(key)
            return self._decode(await self.get_or_load_json(key, loader))

    @overload
    async def get_or_load_json(self, key: str, loader: Callable[[], Awaitable[T]]) -> bytes: ...
    @overload
    async def get_or_load_json(self, key: str, loader: Loader[T]) -> bytes | None: ...
    async def get_or_load_json(self, key: str, loader: Loader[T]) -> bytes | None:
        """The value as the JSON that is stored, for who passes it on as it is.

        A reader that is cancelled leaves the load to the others. Raises what the loader raises, and ApiError
        OVERLOADED when no load may start in time while Redis fails.
        """
        entry = None if key in self._owed else self._near.get(key)
        if entry is not None:
            self._note_hit("negative" if entry.payload == ABSENT else "hit", entry, self._clock())
        else:
            reading = self._near.begin(key)
            entry = await self._read(key, loader)
            if self._clock() < entry.fresh_until:
                self._near.put(key, entry, reading)
        return None if entry.payload == ABSENT else entry.payload

    async def _read(self, key: str, loader: Loader[T]) -> Entry:
        began = time.monotonic()
        if key in self._owed:
            return await self._share_bypass(key, loader, began)
        try:
            entry = await self._store.read(key)
        except STORE_ERRORS:
            self._count("error")
            return await self._share_bypass(key, loader, began)
        if key in self._owed:  # it has been invalidated meanwhile, and this may be what was stored before
            return await self._share_bypass(key, loader, began)
        return await self._judged(key, loader, entry, began)

    async def _share_bypass(self, key: str, loader: Loader[T], began: float) -> Entry:
        self._note_miss(key, "bypass")
        return await self._flights.share(key, partial(self._bypass, loader), began=began)

    async def invalidate(self, key: str) -> None:
        """Forget `key`, and refuse what loads begun before this would store. Call it after the commit.

        From now on this process does not answer an older value. Others do until Redis has taken the invalidation.
        Raises RedisError or TimeoutError when Redis fails: it is then tried again in the background, until Redis
        answers.
        """
        self._owe(key)
        try:
            await self._owed.pay(key)
        finally:
            self._near.forget(key)  # once more: of readers that began before it was owed

    def _owe(self, key: str) -> None:
        self._owed.add(key)
        # A reader that begins now must not join a load that began before the change.
        self._flights.forget(key)
        self._near.forget(key)

    def invalidate_soon(self, key: str) -> None:
        """`invalidate` without waiting, for `after_commit(session, partial(cache.invalidate_soon, key))`."""
        self._owe(key)  # before this task gives way: no reader of this process gets the old value from here on
        task = asyncio.create_task(self._invalidate_or_warn(key))
        self._invalidations.add(task)
        task.add_done_callback(self._invalidations.discard)

    async def invalidated(self) -> None:
        """Wait for the invalidations begun so far: whoever is answered after that never reads the old value."""
        if self._invalidations:
            await asyncio.wait(self._invalidations)

    async def close(self) -> None:
        """Finish invalidations and end loads that nobody waits for: before Redis and the database are closed."""
        await self.invalidated()
        await self._owed.close()
        await self._flights.close()

    async def _judged(self, key: str, loader: Loader[T], entry: Entry | None, began: float) -> Entry:
        now = self._clock()
        worth = judge(entry, self._settings, now=now, chance=1 - self._chance())
        if entry is None or worth == "miss":
            self._note_miss(key, "miss")
            return await self._flights.share(key, partial(self._load, key, loader), began=began)
        if worth == "expired":
            return await self._revalidate(key, loader, entry, began)
        if worth in {"early", "stale"}:
            self._flights.start(key, partial(self._refresh, key, loader, entry))
        self._note_hit(worth, entry, now)
        return entry

    async def _revalidate(self, key: str, loader: Loader[T], expired: Entry, began: float) -> Entry:
        """A new value, or the expired one when the origin fails or takes too long."""
        try:
            async with asyncio.timeout(self._settings.wait_timeout):
                entry = await self._flights.share(key, partial(self._load, key, loader, expired), began=began)
        except Exception:  # noqa: BLE001  whatever it is, the load has logged it, and an old value is better than none
            self._note_hit("stale", expired, self._clock())
            return expired
        self._note_miss(key, "miss")
        return entry

    async def _load(self, key: str, loader: Loader[T], expired: Entry | None = None) -> Loaded:
        """Load and store under the lease, or wait for what comes of it while another process holds it."""
        token, deadline = uuid4().hex, time.monotonic() + self._settings.wait_timeout
        while time.monotonic() < deadline:
            asked = time.monotonic()
            try:
                is_ours, entry = await self._store.take_lease(key, token, seconds=self._settings.lock_ttl)
            except STORE_ERRORS:
                self._count("error")
                break
            if entry is not None and self._is_usable(entry):
                if is_ours:
                    await self._end_lease(key, token)
                return Loaded(entry, covers=asked)
            if is_ours:
                return await self._load_leased(key, token, loader, expired)
            await asyncio.sleep(POLL_SECONDS)
        return await self._bypass(loader)

    async def _refresh(self, key: str, loader: Loader[T], seen: Entry) -> Loaded:
        """Load anew while `seen` is being answered; leave it to another process that does so already."""
        token = uuid4().hex
        try:
            is_ours, entry = await self._store.take_lease(key, token, seconds=self._settings.lock_ttl)
        except STORE_ERRORS:
            self._count("error")
            return Loaded(seen, covers=-math.inf)
        if is_ours and entry == seen:
            return await self._load_leased(key, token, loader, seen)
        if is_ours:
            await self._end_lease(key, token)
        return Loaded(seen, covers=-math.inf)

    def _is_usable(self, entry: Entry) -> bool:
        return judge(entry, self._settings, now=self._clock(), chance=1) not in {"miss", "expired"}

    async def _load_leased(self, key: str, token: str, loader: Loader[T], seen: Entry | None) -> Loaded:
        began = time.monotonic()
        try:
            entry = await self._recompute(loader)
        except Exception as error:
            await self._keep_stale(key, token, seen, error)
            raise
        except BaseException:
            await self._end_lease(key, token)
            raise
        ended = time.monotonic()
        is_stored = await self._end_lease(key, token, entry, seconds=kept_for(entry, self._settings))
        # Stored: no invalidation came in between, so it is as good as if it had been read just now.
        return Loaded(entry, covers=ended if is_stored else began)

    async def _keep_stale(self, key: str, token: str, seen: Entry | None, error: Exception) -> None:
        """Let an old value count as stale from now on: nobody waits for an origin that fails while there is one."""
        if seen is None:
            await self._end_lease(key, token)
            return
        log.warning("cache_refresh_failed", cache=self._name, error=repr(error))
        await self._end_lease(key, token, seen._replace(fresh_until=max(seen.fresh_until, self._clock())))

    async def _bypass(self, loader: Loader[T]) -> Loaded:
        """Load without Redis, few at once: the origin is sized for what the cache lets through."""
        try:
            async with asyncio.timeout(self._settings.wait_timeout):
                await self._bypass_slots.acquire()
        except TimeoutError:
            raise ApiError(ErrorCode.OVERLOADED, retry_after=self._settings.wait_timeout) from None
        try:
            began = time.monotonic()
            return Loaded(await self._recompute(loader), covers=began)
        finally:
            self._bypass_slots.release()

    async def _recompute(self, loader: Loader[T]) -> Entry:
        started = time.perf_counter()
        # Others wait for it too: the deadline of the reader who happened to start it is not theirs.
        with recompute_seconds.labels(self._name).time(), deadlines.lifted():
            value = await loader()
        payload = ABSENT if value is None else self._adapter.dump_json(value)
        delta = time.perf_counter() - started
        return new_entry(payload, self._settings, now=self._clock(), delta=delta, chance=self._chance())

    async def _end_lease(self, key: str, token: str, entry: Entry | None = None, *, seconds: float = 0) -> bool:
        try:
            return await self._store.end_lease(key, token, entry, seconds=seconds)
        except STORE_ERRORS:
            # The value is answered all the same, and the lease runs out by itself.
            self._count("error")
            return False

    async def _invalidate_or_warn(self, key: str) -> None:
        try:
            await self.invalidate(key)
        except STORE_ERRORS as error:
            self._count("error")
            log.warning("cache_invalidation_failed", cache=self._name, key=key, error=repr(error))

    def _decode(self, payload: bytes | None) -> T | None:
        return None if payload is None else self._decoded(payload)

    def _note_hit(self, worth: Worth, entry: Entry, now: float) -> None:
        is_stale = worth == "stale"
        self._count("stale" if is_stale else "negative" if worth == "negative" else "hit")
        self._staleness.observe(entry.age(now))
        if is_stale:
            add_to_canonical_line(cache_hits=1, cache_stale=1)
        else:
            add_to_canonical_line(cache_hits=1)

    def _note_miss(self, key: str, result: Result) -> None:
        self._count(result)
        add_to_canonical_line(cache_misses=1)
        log.debug("cache_missed", cache=self._name, key=key, result=result)

    def _count(self, result: Result) -> None:
        self._counters[result].inc()


def _fingerprint(adapter: TypeAdapter[Any]) -> str:
    """Of the schema by which values are stored: eight characters, others whenever a field, type or limit changes."""
    schema = adapter.json_schema(mode="serialization")
    return blake2b(json.dumps(schema, sort_keys=True).encode(), digest_size=4).hexdigest()
