"""All that a cache does on Redis. Each step is one round trip, within the time-out of the client."""

from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chassis.caching.entries import Entry
from chassis.pooling import names_of

STORE_ERRORS = (RedisError, TimeoutError)
"""What every step may raise."""


class Store:
    """Entries by key: of each, a hash with a field per schema, and beside it the lease of who loads it.

    Releases with different schemas have a field each and do not read each other's; that they share the hash is why an
    invalidation by either reaches both.
    """

    def __init__(self, redis: Redis, *, name: str, field: str) -> None:
        self._redis = redis
        self._end_lease = redis.register_script(
            resources.files("chassis.caching").joinpath("end_lease.lua").read_text()
        )
        self._names = names_of(redis)
        self._name = name
        self._field = field

    async def read(self, key: str) -> Entry | None:
        entries, _ = self._keys(key)
        packed: Any = await self._redis.hget(entries, self._field)
        return Entry.unpack(packed)

    async def take_lease(self, key: str, token: str, *, seconds: float) -> tuple[bool, Entry | None]:
        """Whether the lease was free and is `token`'s now, and what is stored."""
        entries, lease = self._keys(key)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(lease, token, nx=True, px=round(1000 * seconds))
        pipeline.hget(entries, self._field)
        is_ours, packed = await pipeline.execute()
        return bool(is_ours), Entry.unpack(packed)

    async def end_lease(self, key: str, token: str, entry: Entry | None = None, *, seconds: float = 0) -> bool:
        """Give the lease back and store the entry for `seconds`, both only if the lease is still `token`'s.

        0 seconds: as long as the entry that it replaces. Returns whether it was `token`'s.
        """
        # A millisecond at least: 0 would mean something else.
        keep_ms = max(1, round(1000 * seconds)) if seconds else 0
        arguments: list[Any] = [token, self._field, entry.pack() if entry else b"", keep_ms]
        return bool(await self._end_lease(keys=self._keys(key), args=arguments))

    async def delete(self, key: str) -> None:
        """Delete the entries of all schemas, and the lease: a load under way stores nothing."""
        await self._redis.delete(*self._keys(key))

    def _keys(self, key: str) -> tuple[str, str]:
        return self._names.cached(self._name, key)
