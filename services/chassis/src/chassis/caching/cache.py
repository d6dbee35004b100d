"""`Cache`, through which a service reads and invalidates cached values. A read tries the process's memory, then Redis,
and then loads the value from the origin (usually the database).

The first of these conditions that is true decides how a read gets the value:

- The process has invalidated the key, and Redis has not confirmed this yet: the process loads the value and does not
  use Redis.
- This process read the value less than `near_ttl` ago: the read returns the value in the process's memory.
- Redis fails: the process loads the value and does not store the value in Redis. A key has one load at a time, and at
  most `bypass_concurrency` loads run at once.
- The value in Redis is fresh (within its TTL): the read returns this value. Shortly before the value's TTL ends, one of
  many readers also renews the value in the background.
- The value in Redis is stale (its TTL ended less than `stale_while_revalidate` ago): the read returns this old value,
  and one load runs in the background.
- The value in Redis is expired (its TTL ended longer ago, but less than `stale_if_error` ago): the read waits for a
  load. If the load fails or takes longer than `wait_timeout`, the read returns the old value.
- Redis has no value: the read waits for a load. Readers in this process share one load (a flight), and the key's lease
  (a token in Redis) lets only one process load the value.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from hashlib import blake2b
from random import random as default_random
from typing import Any, overload

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from chassis.caching.entries import ABSENT, Entry, Json, freshness_of
from chassis.caching.flights import Flights
from chassis.caching.loading import Loader, Loading
from chassis.caching.metrics import CacheMetrics
from chassis.caching.near_cache import NearCache
from chassis.caching.pending import PendingInvalidations
from chassis.caching.store import STORE_ERRORS, Store
from chassis.config.settings import CacheSettings
from chassis.logging import get_logger

log = get_logger(__name__)


class Cache[T]:
    """A cache for values of type T. `name` must be unique in this Redis, so it begins with the service's name.

    A loader returns None when the origin has no value; the cache stores this absence for `negative_ttl`. Several
    readers share a load, so it may outlive the request that started it. A loader therefore opens a separate database
    connection, with a time-out, and does not use the request's connection.

    Redis stores each entry under the fingerprint of T's schema, so releases whose schemas differ do not read each
    other's values. The time-out of the client `redis` bounds each command to Redis.

    With a `near_ttl` (seconds), the process caches values in its memory for `near_ttl`. After another process
    invalidates a key, this process may return the old value for up to `near_ttl`. Readers share one decoded object per
    value and must not change the object.

    `random` is uniform on [0, 1); `clock` returns Unix time.
    """

    def __init__(
        self,
        redis: Redis,
        adapter: TypeAdapter[T],
        settings: CacheSettings,
        *,
        name: str,
        near_ttl: float = 0.0,
        random: Callable[[], float] = default_random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._name = name
        self._random = random
        self._clock = clock
        self._metrics = CacheMetrics(name)
        self._store = Store(redis, name=name, field=_fingerprint(adapter))
        self._near = NearCache(ttl=near_ttl)
        self._decoded = lru_cache(maxsize=128 if near_ttl else 0)(adapter.validate_json)
        self._flights = Flights()
        self._loading = Loading(
            name, adapter, settings, store=self._store, metrics=self._metrics, random=random, clock=clock
        )
        # After an invalidation that fails, Redis may have an old value for at most `retention`. A load under way may
        # store the old value until its lease expires, at most `lock_ttl` later: the lease is the token with which a
        # load may store a value. Redis then stores this value for at most `ttl` plus `stale_if_error`.
        retention = settings.ttl + settings.stale_if_error + settings.lock_ttl
        self._pending = PendingInvalidations(self._store.delete, retention=retention)
        self._invalidations: set[asyncio.Task[None]] = set()

    @overload
    async def get_or_load(self, key: str, loader: Callable[[], Awaitable[T]]) -> T: ...
    @overload
    async def get_or_load(self, key: str, loader: Loader[T]) -> T | None: ...
    async def get_or_load(self, key: str, loader: Loader[T]) -> T | None:
        """The value of `key`, from the cache or from `loader`; None when the origin has no value.

        If a reader is cancelled, its load continues for the other readers. Raises the loader's error. While Redis
        fails, raises `ApiError` (OVERLOADED) if `bypass_concurrency` loads are under way and none of them ends within
        `wait_timeout`.
        """
        payload = await self.get_or_load_json(key, loader)
        try:
            return self._decode(payload)
        except ValidationError:
            # T rejects this stored value, although T's schema is still the same: a validator of T has become stricter.
            # So the cache drops the stored value and loads the value again.
            self._metrics.count_error()
            await self._invalidate_or_warn(key)
            return self._decode(await self.get_or_load_json(key, loader))

    @overload
    async def get_or_load_json(self, key: str, loader: Callable[[], Awaitable[T]]) -> Json[T]: ...
    @overload
    async def get_or_load_json(self, key: str, loader: Loader[T]) -> Json[T] | None: ...
    async def get_or_load_json(self, key: str, loader: Loader[T]) -> Json[T] | None:
        """The stored JSON of the value, for a caller that sends the JSON on unchanged; otherwise like `get_or_load`."""
        entry = None if key in self._pending else self._near.get(key)
        if entry is not None:
            self._metrics.count_hit("negative" if entry.payload == ABSENT else "hit", entry, now=self._clock())
        else:
            reading = self._near.begin(key)
            entry = await self._read(key, loader)
            if self._clock() < entry.fresh_until:
                self._near.put(key, entry, reading)
        return None if entry.payload == ABSENT else entry.payload

    async def invalidate(self, key: str) -> None:
        """Drop the value of `key`, and refuse to store values whose loads have already begun. Call `invalidate` after
        the commit that changes the origin.

        As soon as `invalidate` begins, this process no longer returns the old value. Other processes may return the old
        value until Redis confirms the invalidation, and for `near_ttl` after the confirmation.
        Raises RedisError or TimeoutError when Redis fails; a background task then repeats the invalidation until Redis
        confirms it.
        """
        self._begin_invalidation(key)
        await self._pending.apply(key)

    def invalidate_soon(self, key: str) -> None:
        """Invalidate `key` in the background. For an invalidation after a commit, `after_commit` gets
        `partial(cache.invalidate_soon, key)`.
        """
        # The task below runs later. This call begins the invalidation at once, so that no later reader in this process
        # gets the old value.
        self._begin_invalidation(key)
        task = asyncio.create_task(self._invalidate_or_warn(key))
        self._invalidations.add(task)
        task.add_done_callback(self._invalidations.discard)

    async def invalidated(self) -> None:
        """Wait for the invalidations that have begun. A request handler may await this method before it answers. Its
        client then never reads the old value afterwards, unless Redis failed or another process has the value in its
        memory.
        """
        if self._invalidations:
            await asyncio.wait(self._invalidations)

    async def close(self) -> None:
        """Finish the invalidations and cancel the loads. Call `close` before Redis and the database are closed."""
        await self.invalidated()
        await self._pending.close()
        await self._flights.close()

    async def _read(self, key: str, loader: Loader[T]) -> Entry:
        began = time.monotonic()
        if key in self._pending:
            return await self._share_bypass(key, loader, began)
        try:
            entry = await self._store.read(key)
        except STORE_ERRORS:
            self._metrics.count_error()
            return await self._share_bypass(key, loader, began)
        if key in self._pending:  # the key was invalidated during the read, so the entry may have the old value
            return await self._share_bypass(key, loader, began)
        now = self._clock()
        freshness = freshness_of(entry, self._settings, now=now, draw=1 - self._random())
        if entry is None or freshness == "miss":
            self._metrics.count_miss(key, "miss")
            return await self._flights.share(key, partial(self._loading.load, key, loader), began=began)
        if freshness == "expired":
            return await self._revalidate(key, loader, entry, began)
        if freshness in {"early", "stale"}:
            self._flights.start(key, partial(self._loading.refresh, key, loader, entry))
        self._metrics.count_hit(freshness, entry, now=now)
        return entry

    async def _share_bypass(self, key: str, loader: Loader[T], began: float) -> Entry:
        self._metrics.count_miss(key, "bypass")
        return await self._flights.share(key, partial(self._loading.bypass, loader), began=began)

    async def _revalidate(self, key: str, loader: Loader[T], expired: Entry, began: float) -> Entry:
        """A new entry, or the `expired` entry when the origin fails or takes longer than `wait_timeout`."""
        try:
            async with asyncio.timeout(self._settings.wait_timeout):
                load = partial(self._loading.load, key, loader, expired)
                entry = await self._flights.share(key, load, began=began)
        except Exception:  # noqa: BLE001  the load has logged the error, and the reader gets the old value
            self._metrics.count_hit("stale", expired, now=self._clock())
            return expired
        self._metrics.count_miss(key, "miss")
        return entry

    def _begin_invalidation(self, key: str) -> None:
        self._pending.add(key)
        # A reader that begins after this invalidation must not join a load that began before the origin changed.
        self._flights.forget(key)
        self._near.forget(key)

    async def _invalidate_or_warn(self, key: str) -> None:
        try:
            await self.invalidate(key)
        except STORE_ERRORS as error:
            self._metrics.count_error()
            log.warning("cache_invalidation_failed", cache=self._name, key=key, error=repr(error))

    def _decode(self, payload: bytes | None) -> T | None:
        return None if payload is None else self._decoded(payload)


def _fingerprint(adapter: TypeAdapter[Any]) -> str:
    """A fingerprint (eight characters) of the schema of stored values.

    Each change of a field, a type or a limit in the schema changes the fingerprint.
    """
    schema = adapter.json_schema(mode="serialization")
    return blake2b(json.dumps(schema, sort_keys=True).encode(), digest_size=4).hexdigest()
