"""What a process has read lately is answered from its memory, for values that may be so much older."""

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest
from caching_origin import BOOK, DEARER, SETTINGS, Clock, GatedRedis, Origin, Product, count, failing_redis, landed
from chassis.caching import Cache
from chassis.caching.entries import new_entry, retention_of
from chassis.caching.near_cache import MAX_KEYS, NearCache
from chassis.caching.store import STORE_ERRORS
from pydantic import TypeAdapter
from redis.asyncio import Redis


@pytest.fixture
def name() -> str:
    return f"test-{uuid4().hex}"


def near_cache(
    redis: Redis, name: str, clock: Clock, *, near_ttl: float = 1.0, random: Callable[[], float] = lambda: 0.0
) -> Cache[Product]:
    """With one clock for the memory and for what is stored."""
    cache = Cache(redis, TypeAdapter(Product), SETTINGS, name=name, near_ttl=near_ttl, random=random, clock=clock)
    cache._near = NearCache(ttl=near_ttl, clock=clock)
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


# Once `invalidate` has returned, this process never answers an older value, whatever was under way


async def test_a_load_begun_before_an_invalidation_is_not_remembered_after_it(redis: Redis, name: str) -> None:
    cache, origin = near_cache(redis, name, Clock()), Origin()
    origin.answers.clear()
    early = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    origin.product = DEARER
    await cache.invalidate("book")
    origin.answers.set()
    assert await early == BOOK
    assert await cache.get_or_load("book", origin.load) == DEARER


async def test_while_an_invalidation_is_on_its_way_its_process_answers_nothing_older(redis: Redis, name: str) -> None:
    gate, origin = GatedRedis(redis), Origin()
    cache = near_cache(gate.client, name, Clock())
    await cache.get_or_load("book", origin.load)
    origin.product = DEARER
    gate.close("delete", before=True)
    invalidation = asyncio.create_task(cache.invalidate("book"))
    await gate.reached.wait()
    assert await cache.get_or_load("book", origin.load) == DEARER  # Redis still has the other
    gate.open()
    await invalidation
    assert await cache.get_or_load("book", origin.load) == DEARER


async def test_a_value_whose_reply_arrives_after_the_invalidation_is_not_remembered(redis: Redis, name: str) -> None:
    gate, origin = GatedRedis(redis), Origin()
    await near_cache(redis, name, Clock()).get_or_load("book", origin.load)
    cache = near_cache(gate.client, name, Clock())
    gate.close("hget", before=False)
    early = asyncio.create_task(cache.get_or_load("book", origin.load))
    await gate.reached.wait()
    origin.product = DEARER
    await cache.invalidate("book")
    gate.open()
    assert await early == BOOK
    assert await cache.get_or_load("book", origin.load) == DEARER


async def test_a_value_loaded_without_redis_before_an_invalidation_is_not_remembered(name: str) -> None:
    origin = Origin()
    async with failing_redis("gone") as redis:
        cache = near_cache(redis, name, Clock())
        origin.answers.clear()
        early = asyncio.create_task(cache.get_or_load("book", origin.load))
        await origin.asked.wait()
        origin.product = DEARER
        with pytest.raises(STORE_ERRORS):
            await cache.invalidate("book")
        origin.answers.set()
        assert await early == BOOK
        assert await cache.get_or_load("book", origin.load) == DEARER
        await cache.close()


@pytest.mark.parametrize("age", [SETTINGS.ttl - 0.1, SETTINGS.ttl, SETTINGS.ttl + SETTINGS.stale_while_revalidate])
async def test_a_renewal_begun_before_an_invalidation_is_not_remembered_after_it(
    redis: Redis, name: str, age: float
) -> None:
    """Early (XFetch), stale while revalidating, and expired."""
    clock, origin = Clock(), Origin()
    cache = near_cache(redis, name, clock, random=lambda: 0.999)
    slowly = new_entry(BOOK.model_dump_json().encode(), SETTINGS, now=clock.now, delta=5.0, draw=0.0)
    await cache._store.take_lease("book", "token", seconds=1)
    await cache._store.end_lease("book", "token", slowly, seconds=retention_of(slowly, SETTINGS))
    clock.now += age
    origin.answers.clear()
    early = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    origin.product = DEARER
    await cache.invalidate("book")
    origin.answers.set()
    assert await early == BOOK
    await landed(cache)
    assert await cache.get_or_load("book", origin.load) == DEARER


async def test_an_invalidation_of_one_key_lets_the_others_be_remembered(redis: Redis, name: str) -> None:
    cache, origin = near_cache(redis, name, Clock()), Origin()
    origin.answers.clear()
    reader = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    await cache.invalidate("pen")
    origin.answers.set()
    await reader
    await redis.flushall()
    await cache.get_or_load("book", origin.load)
    assert origin.loads == 1


async def test_a_slow_reply_does_not_lengthen_the_time_for_which_a_value_is_remembered(redis: Redis, name: str) -> None:
    """Of another process's memory: its bound counts from the moment when the value was asked for."""
    clock, origin = Clock(), Origin()
    writer, gate = near_cache(redis, name, clock), GatedRedis(redis)
    await writer.get_or_load("book", origin.load)
    cache = near_cache(gate.client, name, clock)
    gate.close("hget", before=False)
    early = asyncio.create_task(cache.get_or_load("book", origin.load))
    await gate.reached.wait()
    origin.product = DEARER
    await writer.invalidate("book")
    clock.now += 1.0
    gate.open()
    assert await early == BOOK
    assert await cache.get_or_load("book", origin.load) == DEARER


ENTRY = new_entry(b"{}", SETTINGS, now=0, delta=0, draw=0)


def test_0_seconds_take_no_memory() -> None:
    near = NearCache(ttl=0, clock=Clock())
    near.put("book", ENTRY, near.begin("book"))
    assert not near._entries


def test_the_oldest_keys_go_first() -> None:
    near = NearCache(ttl=1, clock=Clock())
    for number in range(MAX_KEYS + 1):
        near.put(str(number), ENTRY, near.begin(str(number)))
    assert near.get("0") is None
    assert near.get("1") == near.get(str(MAX_KEYS)) == ENTRY


def test_a_key_that_was_read_again_is_not_the_oldest_any_more() -> None:
    near = NearCache(ttl=1, clock=Clock())
    for number in range(MAX_KEYS):
        near.put(str(number), ENTRY, near.begin(str(number)))
    near.put("0", ENTRY, near.begin("0"))
    near.put("one more", ENTRY, near.begin("one more"))
    assert near.get("0") == ENTRY
    assert near.get("1") is None
