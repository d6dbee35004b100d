"""The other ways to limit, in Redis as they are usually written: `limit` calls of a key in `window` seconds."""

import time
import uuid
from typing import Protocol

from redis.asyncio import Redis

BUCKET_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local found = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(found[1]) or limit
tokens = math.min(limit, tokens + (now - (tonumber(found[2]) or now)) * limit / window)
local allowed = tokens >= 1
if allowed then tokens = tokens - 1 end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], math.ceil(window) + 1)
return allowed and 1 or 0
"""


class Algorithm(Protocol):
    name: str
    keeps: str
    """What it keeps in Redis of one key."""

    async def allows(self, key: str) -> bool: ...


class FixedWindow:
    """A counter per window of the clock."""

    name, keeps = "fixed window", "1 counter"

    def __init__(self, redis: Redis, *, limit: int, window: float) -> None:
        self._redis, self._limit, self._window = redis, limit, window

    async def allows(self, key: str) -> bool:
        counter = f"fixed:{key}:{int(time.time() / self._window)}"
        count = int(await self._redis.incr(counter))
        if count == 1:
            await self._redis.expire(counter, int(2 * self._window) + 1)
        return count <= self._limit


class SlidingCounter:
    """Two counters: the last window counts by the share of it that is still inside."""

    name, keeps = "sliding counter", "2 counters"

    def __init__(self, redis: Redis, *, limit: int, window: float) -> None:
        self._redis, self._limit, self._window = redis, limit, window

    async def allows(self, key: str) -> bool:
        number, share = divmod(time.time(), self._window)
        now, before = f"sliding:{key}:{int(number)}", f"sliding:{key}:{int(number) - 1}"
        current, last = await self._redis.mget(now, before)
        if int(current or 0) + int(last or 0) * (1 - share / self._window) >= self._limit:
            return False
        pipeline = self._redis.pipeline()
        pipeline.incr(now)
        pipeline.expire(now, int(2 * self._window) + 1)
        await pipeline.execute()
        return True


class SlidingLog:
    """Every call that was admitted, with its time."""

    name, keeps = "sliding log", "each call"

    def __init__(self, redis: Redis, *, limit: int, window: float) -> None:
        self._redis, self._limit, self._window = redis, limit, window

    async def allows(self, key: str) -> bool:
        log, now = f"log:{key}", time.time()
        await self._redis.zremrangebyscore(log, 0, now - self._window)
        if await self._redis.zcard(log) >= self._limit:
            return False
        await self._redis.zadd(log, {uuid.uuid4().hex: now})
        await self._redis.expire(log, int(self._window) + 1)
        return True


class TokenBucket:
    """Tokens that come back steadily, in a script: what GCRA does, with two numbers in place of one."""

    name, keeps = "token bucket", "2 numbers"

    def __init__(self, redis: Redis, *, limit: int, window: float) -> None:
        self._script = redis.register_script(BUCKET_SCRIPT)
        self._arguments = [limit, window]

    async def allows(self, key: str) -> bool:
        return bool(await self._script(keys=[f"bucket:{key}"], args=self._arguments))
