"""What the caching tests cache: a product, loaded from an origin that counts and waits when it is told to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

from chassis.caching import Cache
from chassis.config.settings import CacheSettings, RedisSettings
from chassis.pooling import create_shared_redis
from prometheus_client import REGISTRY
from pydantic import BaseModel, TypeAdapter
from redis.asyncio import Redis

SETTINGS = CacheSettings()


class Product(BaseModel):
    id: UUID
    name: str
    price: int


BOOK = Product(id=UUID(int=1), name="book", price=1250)
DEARER = BOOK.model_copy(update={"price": 9900})


class Origin:
    """What is cached, counting its loads. While `answers` is clear, loads begin and wait."""

    def __init__(self, product: Product | None = BOOK) -> None:
        self.product = product
        self.error: Exception | None = None
        self.loads = 0
        self.concurrent = 0
        self.peak = 0
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def load(self) -> Product | None:
        self.loads += 1
        self.concurrent += 1
        self.peak = max(self.peak, self.concurrent)
        product = self.product  # what the query saw when it ran; the answer may arrive much later
        self.asked.set()
        try:
            await self.answers.wait()
        finally:
            self.concurrent -= 1
        if self.error:
            raise self.error
        return product


class Clock:
    """The time of day, as long as nobody moves it on."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class GatedRedis:
    """A client of a real Redis whose calls of one command wait at a gate: before they are sent, or with their reply."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._held: tuple[str, bool] | None = None
        self._may_go = asyncio.Event()
        self.reached = asyncio.Event()

    @property
    def client(self) -> Redis:
        return cast("Redis", self)

    def close(self, command: str, *, before: bool) -> None:
        self._held = command, before

    def open(self) -> None:
        self._held = None
        self._may_go.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def hget(self, *arguments: Any) -> Any:
        return await self._pass("hget", self._redis.hget, arguments)

    async def delete(self, *arguments: Any) -> Any:
        return await self._pass("delete", self._redis.delete, arguments)

    async def _pass(self, command: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if self._held == (command, True):
            await self._wait()
        reply = await call(*arguments)
        if self._held == (command, False):
            await self._wait()
        return reply

    async def _wait(self) -> None:
        self.reached.set()
        await self._may_go.wait()


def product_cache(
    redis: Redis,
    name: str,
    *,
    settings: CacheSettings = SETTINGS,
    random: Callable[[], float] = lambda: 0.0,
    clock: Callable[[], float] | None = None,
    kind: type[Product] = Product,
) -> Cache[Product]:
    """A cache that never renews early and does not jitter, unless `random` says so."""
    return Cache(redis, TypeAdapter(kind), settings, name=name, random=random, clock=clock or Clock())


def entries_key(name: str, key: str = "book") -> str:
    return f"test:{{cache:{name}:{key}}}"


def lease_key(name: str, key: str = "book") -> str:
    return f"{entries_key(name, key)}:lease"


def count(name: str, result: str) -> float:
    return REGISTRY.get_sample_value("cache_requests_total", {"cache": name, "result": result}) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  counters and task sets signal nothing
            await asyncio.sleep(0.001)


async def landed(cache: Cache[Product]) -> None:
    """No load is under way any more."""
    await until(lambda: not cache._flights._tasks)


@asynccontextmanager
async def failing_redis(failure: str, *, within: float = 10) -> AsyncIterator[Redis]:
    """A client of a closed port ("gone"), or of a listener that accepts and never answers ("hanging")."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if failure == "hanging":
            listener.listen()
        redis = create_shared_redis(RedisSettings(port=listener.getsockname()[1]), timeout=within)
        yield redis
        await redis.aclose()
