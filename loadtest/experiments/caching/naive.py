"""The cache people really write: look, load when there is nothing, store."""

from collections.abc import Awaitable, Callable

from redis.asyncio import Redis


class NaiveCache:
    def __init__(self, redis: Redis, *, ttl: int) -> None:
        self._redis = redis
        self._ttl = ttl

    async def get_or_load(self, key: str, loader: Callable[[], Awaitable[float]]) -> float:
        stored = await self._redis.get(key)
        if stored is not None:
            return float(stored)
        value = await loader()
        await self._redis.set(key, value, ex=self._ttl)
        return value

    async def close(self) -> None:
        """Nothing is under way here that nobody waits for."""
