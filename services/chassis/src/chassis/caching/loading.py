"""Loads of values from the origin (usually the database). A lease (a random token in Redis) lets one process load a key
for all processes. While Redis fails, each process loads the keys that its readers need, at most `bypass_concurrency`
keys at once.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

from pydantic import TypeAdapter

from chassis.caching.entries import ABSENT, Entry, freshness_of, new_entry, retention_of
from chassis.caching.flights import Loaded
from chassis.caching.metrics import CacheMetrics, recompute_seconds
from chassis.caching.store import STORE_ERRORS, Store
from chassis.config.settings import CacheSettings
from chassis.errors import ApiError, ErrorCode
from chassis.logging import get_logger
from chassis.retries import deadlines

log = get_logger(__name__)

POLL_SECONDS = 0.02
"""Seconds between two reads of a key in Redis while another process loads the key. A load takes about as long."""

type Loader[T] = Callable[[], Awaitable[T | None]]


class Loading[T]:
    """Loads the values of the cache `name`. `random` is uniform on [0, 1); `clock` returns Unix time."""

    def __init__(
        self,
        name: str,
        adapter: TypeAdapter[T],
        settings: CacheSettings,
        *,
        store: Store,
        metrics: CacheMetrics,
        random: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._adapter = adapter
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._random = random
        self._clock = clock
        self._bypass_slots = asyncio.Semaphore(settings.bypass_concurrency)

    async def load(self, key: str, loader: Loader[T], expired: Entry | None = None) -> Loaded:
        """Take the key's lease (its token in Redis), load the value and store the value. If another process holds the
        lease, wait until that process has stored its entry.

        `expired` is the entry whose value readers get only if the load fails, or None if Redis has no such entry. If
        the wait for another process exceeds `wait_timeout`, or if Redis fails, this process loads without the lease.
        """
        token, deadline = uuid4().hex, time.monotonic() + self._settings.wait_timeout
        while time.monotonic() < deadline:
            looked = time.monotonic()
            try:
                is_ours, entry = await self._store.take_lease(key, token, seconds=self._settings.lock_ttl)
            except STORE_ERRORS:
                self._metrics.count_error()
                break
            if entry is not None and self._is_usable(entry):
                if is_ours:
                    await self._end_lease(key, token)
                return Loaded(entry, covers=looked)
            if is_ours:
                return await self._load_leased(key, token, loader, expired)
            await asyncio.sleep(POLL_SECONDS)
        return await self.bypass(loader)

    async def refresh(self, key: str, loader: Loader[T], seen: Entry) -> Loaded:
        """Load in the background, while readers get the old entry `seen`. Returns `seen` without a load if Redis fails,
        if another process loads the key, or if Redis no longer stores `seen`.
        """
        token = uuid4().hex
        try:
            is_ours, entry = await self._store.take_lease(key, token, seconds=self._settings.lock_ttl)
        except STORE_ERRORS:
            self._metrics.count_error()
            return Loaded(seen, covers=-math.inf)
        if is_ours and entry == seen:
            return await self._load_leased(key, token, loader, seen)
        if is_ours:
            await self._end_lease(key, token)
        return Loaded(seen, covers=-math.inf)

    async def bypass(self, loader: Loader[T]) -> Loaded:
        """Load without Redis, at most `bypass_concurrency` values at once.

        This limit protects the origin. While the cache works, few reads reach the origin, so the origin does not have
        the capacity for all reads.
        """
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

    def _is_usable(self, entry: Entry) -> bool:
        return freshness_of(entry, self._settings, now=self._clock(), draw=1) not in {"miss", "expired"}

    async def _load_leased(self, key: str, token: str, loader: Loader[T], seen: Entry | None) -> Loaded:
        began = time.monotonic()
        try:
            entry = await self._recompute(loader)
        except Exception as error:
            await self._mark_stale(key, token, seen, error)
            raise
        except BaseException:
            await self._end_lease(key, token)
            raise
        ended = time.monotonic()
        is_stored = await self._end_lease(key, token, entry, seconds=retention_of(entry, self._settings))
        # Redis stores the entry only if no invalidation came during the load. So a stored entry contains every change
        # of the origin whose invalidation came before the load ended. An entry that Redis did not store may lack the
        # changes whose invalidations came after the load began.
        return Loaded(entry, covers=ended if is_stored else began)

    async def _mark_stale(self, key: str, token: str, seen: Entry | None, error: Exception) -> None:
        """Store the old entry `seen` as stale. Readers then get this entry's value at once and do not wait for the
        failing origin.
        """
        if seen is None:
            await self._end_lease(key, token)
            return
        log.warning("cache_refresh_failed", cache=self._name, error=repr(error))
        await self._end_lease(key, token, seen._replace(fresh_until=max(seen.fresh_until, self._clock())))

    async def _recompute(self, loader: Loader[T]) -> Entry:
        started = time.perf_counter()
        # Several readers wait for this load, so the deadline of the one reader that started the load does not apply.
        with recompute_seconds.labels(self._name).time(), deadlines.lifted():
            value = await loader()
        payload = ABSENT if value is None else self._adapter.dump_json(value)
        delta = time.perf_counter() - started
        return new_entry(payload, self._settings, now=self._clock(), delta=delta, draw=self._random())

    async def _end_lease(self, key: str, token: str, entry: Entry | None = None, *, seconds: float = 0) -> bool:
        try:
            return await self._store.end_lease(key, token, entry, seconds=seconds)
        except STORE_ERRORS:
            # The readers still get the loaded value although Redis failed, and the lease expires after `lock_ttl`.
            self._metrics.count_error()
            return False
