"""Caching: cache-aside whose cold keys cost one load, whose invalidations win over loads begun before them.

    read ─ fresh ──▶ value
         ─ stale ──▶ value, and one load in the background
         ─ nothing ▶ one load in this process (a flight), and among all processes one that holds the key's lease
         ─ Redis fails ▶ one load in this process, few at once, nothing stored

The lease is lock and version in one: a random token beside the value, without which nothing is stored. Whoever
changes the origin commits, then invalidates, which deletes value and lease in one command. Memcached's leases are
the source: Nishtala et al., Scaling Memcache at Facebook, NSDI 2013, section 3.2.1.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Literal
from uuid import uuid4

from prometheus_client import Counter, Histogram
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chassis.errors import ApiError, ErrorCode
from chassis.logging import add_to_canonical_line, get_logger
from chassis.settings import CacheSettings

log = get_logger(__name__)

requests = Counter(
    "cache_requests",
    "Reads by result (hit, miss, stale, negative, bypass); error: Redis failed or a value was unreadable.",
    ["cache", "result"],
)
recompute_seconds = Histogram(
    "cache_recompute_duration_seconds",
    "Time the origin took to load a value.",
    ["cache"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

# What is stored for "the origin has none". No JSON document reads like this, so no value can be mistaken for it.
ABSENT = b"absent"

# Seconds between looks at a key that another process loads: about what a load takes, and 50 looks a second at most.
POLL_SECONDS = 0.02

type Result = Literal["hit", "negative", "stale", "miss", "bypass"]
type Loader[T] = Callable[[], Awaitable[T | None]]
type Load[T] = Callable[[str, Loader[T]], Coroutine[None, None, T | None]]


def judge(payload: bytes | None, expires_in: float, *, stale_ttl: float) -> Result:
    """What a stored payload is worth that expires in `expires_in` seconds, the last `stale_ttl` of them stale."""
    if payload is None:
        return "miss"
    if payload == ABSENT:
        return "negative"
    return "hit" if expires_in > stale_ttl else "stale"


def lifetime(payload: bytes, settings: CacheSettings, *, chance: float) -> int:
    """Milliseconds to keep a payload: its TTL, shortened by a `chance` (0 to 1) of the jitter, and its stale time.

    Shortened only, so that the TTL stays the bound on staleness. An absence has no stale time.
    """
    ttl, stale = (settings.negative_ttl, 0.0) if payload == ABSENT else (settings.ttl, settings.stale_ttl)
    return max(1, round(1000 * (ttl * (1 - settings.ttl_jitter * chance) + stale)))


@dataclass(frozen=True, slots=True)
class Entry[T]:
    """What reading a key gave; `value` only for a hit or a stale one."""

    result: Result
    value: T | None


class Cache[T]:
    """The values of one kind, under `name`: unique on this Redis, so it starts with the service's.

    `version` is in every key: raise it when the shape of T changes, and old and new processes don't meet.
    `timeout` (seconds) bounds each step on Redis. A loader returns None for "there is none", which is remembered for
    `negative_ttl`; it opens its own connection and has its own time-out, since it may outlive the request that
    started it.
    """

    def __init__(
        self,
        redis: Redis,
        adapter: TypeAdapter[T],
        settings: CacheSettings,
        *,
        name: str,
        version: int,
        timeout: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._redis = redis
        self._finish = redis.register_script(resources.files("chassis").joinpath("caching.lua").read_text())
        self._adapter = adapter
        self._settings = settings
        self._name = name
        self._prefix = f"cache:{name}:v{version}"
        self._timeout = timeout
        self._chance = chance
        self._flights: dict[str, asyncio.Task[T | None]] = {}  # what readers of a key may still join
        self._loads: set[asyncio.Task[T | None]] = set()
        self._invalidations: set[asyncio.Task[None]] = set()
        self._bypass_slots = asyncio.Semaphore(settings.bypass_concurrency)

    async def get_or_load(self, key: str, loader: Loader[T]) -> T | None:
        """The value of `key`, from the cache or from `loader`; None when there is none.

        A reader that is cancelled leaves the load to the others. Raises what the loader raises, and ApiError
        OVERLOADED when Redis fails and no load may start in time.
        """
        entry = await self._read(key)
        self._note(entry, key)
        if entry.result == "miss":
            return await asyncio.shield(self._flight(key, loader, self._load))
        if entry.result == "bypass":
            return await asyncio.shield(self._flight(key, loader, self._bypass))
        if entry.result == "stale":
            self._flight(key, loader, self._refresh)
        add_to_canonical_line(cache_hits=1)
        return entry.value

    def _note(self, entry: Entry[T], key: str) -> None:
        self._count(entry.result)
        if entry.result in {"miss", "bypass"}:
            add_to_canonical_line(cache_misses=1)
            log.debug("cache_missed", cache=self._name, key=key, result=entry.result)

    async def invalidate(self, key: str) -> None:
        """Forget `key`, and refuse what loads begun before this would store. Call it after the commit.

        Raises RedisError or TimeoutError when Redis fails: the old value may then live until its TTL.
        """
        # Whoever reads from now on must not join a load that began before the change.
        self._flights.pop(key, None)
        async with asyncio.timeout(self._timeout):
            await self._redis.delete(*self._keys(key))

    def invalidate_soon(self, key: str) -> None:
        """`invalidate` without waiting, for `after_commit(session, partial(cache.invalidate_soon, key))`."""
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
        loads = list(self._loads)
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    def _flight(self, key: str, loader: Loader[T], load: Load[T]) -> asyncio.Task[T | None]:
        """The one load of `key` in this process, started unless there is one."""
        if key not in self._flights:
            flight = asyncio.create_task(load(key, loader))
            self._flights[key] = flight
            self._loads.add(flight)
            flight.add_done_callback(partial(self._landed, key))
        return self._flights[key]

    def _landed(self, key: str, flight: asyncio.Task[T | None]) -> None:
        self._loads.discard(flight)
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, also when every reader has gone

    async def _load(self, key: str, loader: Loader[T]) -> T | None:
        """Load and store under a lease; what another process stored in the meantime is as good."""
        token = uuid4().hex
        try:
            async with asyncio.timeout(self._settings.lock_ttl):
                entry = await self._entry_or_lease(key, token)
        except (RedisError, TimeoutError):
            self._count("error")
            return await self._bypass(key, loader)
        if entry is not None:
            return entry.value
        try:
            value = await self._recompute(loader)
            payload = self._encode(value)
        except BaseException:
            await self._end_lease(key, token, b"")
            raise
        await self._end_lease(key, token, payload)
        return value

    async def _refresh(self, key: str, loader: Loader[T]) -> T | None:
        """`_load` behind a stale answer, where nobody else would report that it failed."""
        try:
            return await self._load(key, loader)
        except Exception as error:
            log.warning("cache_refresh_failed", cache=self._name, error=repr(error))
            raise

    async def _bypass(self, _key: str, loader: Loader[T]) -> T | None:
        """Load without Redis, few at once: the origin is sized for what the cache lets through."""
        try:
            async with asyncio.timeout(self._settings.lock_ttl):
                await self._bypass_slots.acquire()
        except TimeoutError:
            raise ApiError(ErrorCode.OVERLOADED, retry_after=self._settings.lock_ttl) from None
        try:
            return await self._recompute(loader)
        finally:
            self._bypass_slots.release()

    async def _recompute(self, loader: Loader[T]) -> T | None:
        with recompute_seconds.labels(self._name).time():
            return await loader()

    async def _entry_or_lease(self, key: str, token: str) -> Entry[T] | None:
        """None once the lease is ours and the load too; the entry when Redis has one that will do."""
        while True:
            entry, leased = await self._take_lease(key, token)
            if leased and entry.result in {"miss", "stale"}:
                return None
            if leased:
                await self._end_lease(key, token, b"")
            if entry.result != "miss":
                return entry
            await asyncio.sleep(POLL_SECONDS)

    async def _read(self, key: str) -> Entry[T]:
        value_key, _ = self._keys(key)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(value_key)
        pipeline.pttl(value_key)
        try:
            async with asyncio.timeout(self._timeout):
                payload, expires_in_ms = await pipeline.execute()
        except (RedisError, TimeoutError):
            self._count("error")
            return Entry("bypass", None)
        return self._entry(payload, expires_in_ms)

    async def _take_lease(self, key: str, token: str) -> tuple[Entry[T], bool]:
        value_key, lease_key = self._keys(key)
        lease_ms = round(1000 * self._settings.lock_ttl)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(lease_key, token, nx=True, px=lease_ms)
        pipeline.get(value_key)
        pipeline.pttl(value_key)
        async with asyncio.timeout(self._timeout):
            leased, payload, expires_in_ms = await pipeline.execute()
        return self._entry(payload, expires_in_ms), bool(leased)

    async def _end_lease(self, key: str, token: str, payload: bytes) -> None:
        """Store a payload that is not empty, and give the lease back: both only if it is still ours."""
        expiry_ms = lifetime(payload, self._settings, chance=self._chance())
        try:
            async with asyncio.timeout(self._timeout):
                await self._finish(keys=self._keys(key), args=[token, payload, expiry_ms])
        except (RedisError, TimeoutError):
            # The value is answered all the same, and the lease runs out by itself.
            self._count("error")

    async def _invalidate_or_warn(self, key: str) -> None:
        try:
            await self.invalidate(key)
        except (RedisError, TimeoutError) as error:
            self._count("error")
            log.warning("cache_invalidation_failed", cache=self._name, key=key, error=repr(error))

    def _entry(self, payload: bytes | None, expires_in_ms: int) -> Entry[T]:
        result = judge(payload, expires_in_ms / 1000, stale_ttl=self._settings.stale_ttl)
        if payload is None or result == "negative":
            return Entry(result, None)
        try:
            return Entry(result, self._adapter.validate_json(payload))
        except ValidationError:
            # T changed and `version` did not: load it anew rather than fail every read.
            self._count("error")
            return Entry("miss", None)

    def _encode(self, value: T | None) -> bytes:
        return ABSENT if value is None else self._adapter.dump_json(value)

    def _keys(self, key: str) -> tuple[str, str]:
        """The value's and the lease's key; the braces keep both on one node of a cluster."""
        value_key = f"{{{self._prefix}:{key}}}"
        return value_key, f"{value_key}:lease"

    def _count(self, result: str) -> None:
        requests.labels(self._name, result).inc()
