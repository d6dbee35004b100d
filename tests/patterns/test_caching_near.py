"""What a process has read lately is answered from its memory, for values that may be so much older."""

from uuid import uuid4

import pytest
from caching_origin import BOOK, DEARER, SETTINGS, Clock, Origin, Product, count, failing_redis
from chassis.caching import Cache
from chassis.caching.entries import new_entry
from chassis.caching.near import MAX_KEYS, Near
from pydantic import TypeAdapter
from redis.asyncio import Redis


@pytest.fixture
def name() -> str:
    return f"test-{uuid4().hex}"


def near_cache(redis: Redis, name: str, clock: Clock, *, near_ttl: float = 1.0) -> Cache[Product]:
    """With one clock for the memory and for what is stored."""
    cache = Cache(redis, TypeAdapter(Product), SETTINGS, name=name, near_ttl=near_ttl, chance=lambda: 0.0, clock=clock)
    cache._near = Near(ttl=near_ttl, clock=clock)
    return cache


async def test_redis_is_asked_again_when_the_time_is_over(redis: Redis, name: str) -> None:
    clock, origin = Clock(), Origin()
    cache = near_cache(redis, name, clock)
    await cache.get_or_load("book", origin.load)
    await redis.flushall()
    clock.now += 0.9
    assert await cache.get_or_load("book", origin.load) == BOOK
    assert (origin.loads, count(name, "hit")) == (1, 1)
    clock.now += 0.2
    await cache.get_or_load("book", origin.load)
    assert origin.loads == 2


async def test_another_process_sees_an_invalidation_so_much_later_and_this_one_at_once(redis: Redis, name: str) -> None:
    clock, origin = Clock(), Origin()
    cache, other = near_cache(redis, name, clock), near_cache(redis, name, clock)
    for one in (cache, other):
        await one.get_or_load("book", origin.load)
    origin.product = DEARER
    await cache.invalidate("book")
    assert await cache.get_or_load("book", origin.load) == DEARER
    assert await other.get_or_load("book", origin.load) == BOOK
    clock.now += 1.0
    assert await other.get_or_load("book", origin.load) == DEARER


async def test_a_value_is_decoded_once(redis: Redis, name: str) -> None:
    clock, origin = Clock(), Origin()
    cache = near_cache(redis, name, clock)
    first = await cache.get_or_load("book", origin.load)
    assert await cache.get_or_load("book", origin.load) is first


async def test_a_stale_value_is_not_kept(redis: Redis, name: str) -> None:
    clock, origin = Clock(), Origin()
    cache = near_cache(redis, name, clock)
    await cache.get_or_load("book", origin.load)
    clock.now += SETTINGS.ttl + 1
    for _ in range(2):
        await cache.get_or_load("book", origin.load)
    assert count(name, "stale") + count(name, "hit") == 2
    assert count(name, "stale") >= 1
    await cache.close()


async def test_without_redis_the_origin_is_asked_once_for_as_long(name: str) -> None:
    clock, origin = Clock(), Origin()
    async with failing_redis("gone") as redis:
        cache = near_cache(redis, name, clock)
        for _ in range(5):
            await cache.get_or_load("book", origin.load)
    assert origin.loads == 1


async def test_0_seconds_keep_nothing(redis: Redis, name: str) -> None:
    clock, origin = Clock(), Origin()
    cache = near_cache(redis, name, clock, near_ttl=0)
    await cache.get_or_load("book", origin.load)
    await redis.flushall()
    await cache.get_or_load("book", origin.load)
    assert origin.loads == 2


ENTRY = new_entry(b"{}", SETTINGS, now=0, delta=0, chance=0)


def test_0_seconds_take_no_memory() -> None:
    near = Near(ttl=0, clock=Clock())
    near.put("book", ENTRY)
    assert not near._entries


def test_the_oldest_keys_go_first() -> None:
    near = Near(ttl=1, clock=Clock())
    for number in range(MAX_KEYS + 1):
        near.put(str(number), ENTRY)
    assert near.get("0") is None
    assert near.get("1") == near.get(str(MAX_KEYS)) == ENTRY


def test_a_key_that_was_read_again_is_not_the_oldest_any_more() -> None:
    near = Near(ttl=1, clock=Clock())
    for number in range(MAX_KEYS):
        near.put(str(number), ENTRY)
    near.put("0", ENTRY)
    near.put("one more", ENTRY)
    assert near.get("0") == ENTRY
    assert near.get("1") is None
