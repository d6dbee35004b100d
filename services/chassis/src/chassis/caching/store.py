"""The commands that a cache sends to Redis. Each method makes one round trip, bounded by the time-out of the client."""

from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chassis.caching.entries import Entry
from chassis.pooling import names_of

STORE_ERRORS = (RedisError, TimeoutError)
"""The errors that every method of `Store` may raise."""


class Store:
    """The entries and leases of a cache in Redis. For each cached key, Redis has two keys: a hash with the entries, and
    the lease, which contains the token of the load that is under way.

    During a rollout, two releases may run whose schemas of the value differ. The hash has one field for each schema, so
    a release does not read the other release's entry. An invalidation deletes the whole hash and therefore also the
    other release's entry.
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
        """Write `token` as the lease of `key` if no load has the lease. Returns whether the lease was free, and the
        entry that Redis stores (or None).
        """
        entries, lease = self._keys(key)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(lease, token, nx=True, px=round(1000 * seconds))
        pipeline.hget(entries, self._field)
        is_ours, packed = await pipeline.execute()
        return bool(is_ours), Entry.unpack(packed)

    async def end_lease(self, key: str, token: str, entry: Entry | None = None, *, seconds: float = 0) -> bool:
        """If the lease still contains `token`, free the lease and store the entry, if there is one, for `seconds`.
        Returns whether the lease contained `token`.

        With 0 seconds, the entry only replaces a stored entry, and the expiry in Redis stays as it is.
        """
        # The expiry is at least a millisecond, because with 0 the script would leave the expiry as it is.
        expiry_ms = max(1, round(1000 * seconds)) if seconds else 0
        arguments: list[Any] = [token, self._field, entry.pack() if entry else b"", expiry_ms]
        return bool(await self._end_lease(keys=self._keys(key), args=arguments))

    async def delete(self, key: str) -> None:
        """Delete the entries of all schemas, and the lease, so that a load under way cannot store its value."""
        await self._redis.delete(*self._keys(key))

    def _keys(self, key: str) -> tuple[str, str]:
        return self._names.cached(self._name, key)
