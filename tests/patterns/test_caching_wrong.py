"""The versions that go wrong, of docs/patterns/caching.md: each harm shown on the real server, and ours beside it."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from caching_origin import BOOK, DEARER, Origin, Product, product_cache
from pydantic import TypeAdapter
from redis.asyncio import Redis

HOUR = 3600

type Read = Callable[[], Awaitable[Product | None]]


@pytest.fixture
def name() -> str:
    return f"test-{uuid4().hex}"


def get_then_set(redis: Redis, origin: Origin) -> Read:
    """What most first versions look like."""
    adapter = TypeAdapter(Product | None)

    async def read() -> Product | None:
        if payload := await redis.get("naive"):
            return adapter.validate_json(payload)
        product = await origin.load()
        await redis.set("naive", adapter.dump_json(product), ex=HOUR)
        return product

    return read


async def test_get_then_set_stores_a_stale_value_over_an_invalidation(redis: Redis, name: str) -> None:
    origin = Origin()
    cache = product_cache(redis, name)
    for read, invalidate, seen in (
        (get_then_set(redis, origin), lambda: redis.delete("naive"), BOOK),  # for an hour
        (lambda: cache.get_or_load("book", origin.load), lambda: cache.invalidate("book"), DEARER),
    ):
        origin.product = BOOK
        origin.answers.clear()
        origin.asked.clear()
        early = asyncio.create_task(read())
        await origin.asked.wait()
        origin.product = DEARER  # committed …
        await invalidate()  # … and the cache is told …
        origin.answers.set()  # … before the old answer arrives
        await early
        assert await read() == seen
    assert await redis.ttl("naive") > HOUR - 60


async def test_get_then_set_loads_once_for_each_reader_of_a_cold_key(redis: Redis) -> None:
    origin = Origin()
    origin.answers.clear()
    read = get_then_set(redis, origin)
    readers = [asyncio.create_task(read()) for _ in range(50)]
    async with asyncio.timeout(5):
        while origin.concurrent < 50:  # noqa: ASYNC110  the origin signals its first reader only
            await asyncio.sleep(0.001)
    origin.answers.set()
    await asyncio.gather(*readers)
    assert origin.peak == 50


async def test_an_absence_that_is_stored_like_a_value_hides_what_is_created_for_an_hour(
    redis: Redis, name: str
) -> None:
    origin = Origin(None)
    read = get_then_set(redis, origin)
    assert await read() is None
    origin.product = BOOK  # created by who knows nothing of a cache: there was nothing to invalidate
    assert await read() is None
    assert await redis.ttl("naive") > HOUR - 60

    origin.product = None
    cache = product_cache(redis, name)
    assert await cache.get_or_load("book", origin.load) is None
    assert await redis.ttl(f"test:{{cache:{name}:book}}") <= 5


async def test_invalidating_before_the_commit_keeps_the_old_value_whatever_the_cache_does(
    redis: Redis, name: str
) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await cache.get_or_load("book", origin.load)

    await cache.invalidate("book")  # the transaction that changes the price is still open …
    await cache.get_or_load("book", origin.load)  # … so this reader sees the old one, and may store it …
    origin.product = DEARER  # … and then it commits
    assert await cache.get_or_load("book", origin.load) == BOOK

    await cache.invalidate("book")
    assert await cache.get_or_load("book", origin.load) == DEARER
