"""A cache's commands on Redis. Each method is one round trip, bounded by the client's time-out."""

from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chassis.caching.entries import Entry
from chassis.pooling import names_of

STORE_ERRORS = (RedisError, TimeoutError)
"""The errors that every method may raise."""


class Store:
    """Entries and leases by key. An entry is a field of the key's hash; the lease is a second key beside the hash.

    Each schema has its own field, so releases with different schemas do not read each other's entries. All fields are
    in one hash, so an invalidation by one release also deletes the other release's entry.
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
        """Take the lease for `token` if it is free. Returns whether it was free, and the stored entry."""
        entries, lease = self._keys(key)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(lease, token, nx=True, px=round(1000 * seconds))
        pipeline.hget(entries, self._field)
        is_ours, packed = await pipeline.execute()
        return bool(is_ours), Entry.unpack(packed)

    async def end_lease(self, key: str, token: str, entry: Entry | None = None, *, seconds: float = 0) -> bool:
        """Store the entry for `seconds` and free the lease, both only if `token` still holds the lease.

        With 0 seconds, the entry keeps the expiry of the one that it replaces. Returns whether `token` held the lease.
        """
        # The expiry is at least a millisecond, because 0 means "keep the expiry of the replaced entry".
        expiry_ms = max(1, round(1000 * seconds)) if seconds else 0
        arguments: list[Any] = [token, self._field, entry.pack() if entry else b"", expiry_ms]
        return bool(await self._end_lease(keys=self._keys(key), args=arguments))

    async def delete(self, key: str) -> None:
        """Delete the entries of all schemas, and the lease, so that a load under way cannot store its value."""
        await self._redis.delete(*self._keys(key))

    def _keys(self, key: str) -> tuple[str, str]:
        return self._names.cached(self._name, key)
