"""One load per cold key, no stale value after an invalidation, and answers while Redis fails."""

import asyncio
import math
from functools import partial
from uuid import uuid4

import pytest
from caching_origin import (
    BOOK,
    DEARER,
    SETTINGS,
    Clock,
    Origin,
    Product,
    count,
    entries_key,
    failing_redis,
    landed,
    lease_key,
    product_cache,
    until,
)
from captured_logs import captured_logs
from chassis.caching.entries import new_entry
from chassis.caching.flights import Flights, Loaded
from chassis.config.settings import CacheSettings, RedisSettings
from chassis.errors import ApiError, ErrorCode
from chassis.pooling import create_redis
from chassis.retries import deadlines
from prometheus_client import REGISTRY
from pydantic import field_validator
from redis.asyncio import Redis


@pytest.fixture
def name() -> str:
    """A cache of its own for each test, so that counters start at zero."""
    return f"test-{uuid4().hex}"


async def test_a_value_is_loaded_once_and_comes_back_typed(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    assert [await cache.get_or_load("book", origin.load) for _ in range(3)] == [BOOK] * 3
    assert origin.loads == 1
    assert (count(name, "miss"), count(name, "hit")) == (1, 2)
    assert REGISTRY.get_sample_value("cache_recompute_duration_seconds_count", {"cache": name}) == 1


async def test_a_value_is_also_given_as_the_json_that_is_stored(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    expected = BOOK.model_dump_json().encode()
    assert [await cache.get_or_load_json("book", origin.load) for _ in range(2)] == [expected] * 2
    assert await cache.get_or_load("book", origin.load) == BOOK
    assert origin.loads == 1


async def test_200_readers_of_a_cold_key_through_two_clients_cost_one_load(
    redis: Redis, redis_settings: RedisSettings, name: str
) -> None:
    other = create_redis(redis_settings, timeout=10)
    caches, origin = [product_cache(redis, name), product_cache(other, name)], Origin()
    origin.answers.clear()
    readers = [asyncio.create_task(caches[n % 2].get_or_load("book", origin.load)) for n in range(200)]
    await origin.asked.wait()
    await until(lambda: count(name, "miss") == 200)
    origin.answers.set()
    assert await asyncio.gather(*readers) == [BOOK] * 200
    assert origin.loads == 1
    await other.aclose()


# An invalidation wins over every load that began before it


async def test_a_load_begun_before_an_invalidation_is_not_stored(redis: Redis, name: str) -> None:
    reader, writer, origin = product_cache(redis, name), product_cache(redis, name), Origin()
    origin.answers.clear()
    early = asyncio.create_task(reader.get_or_load("book", origin.load))
    await origin.asked.wait()

    origin.product = DEARER
    await writer.invalidate("book")
    origin.answers.set()
    assert await early == BOOK
    assert await redis.exists(entries_key(name)) == 0
    assert await reader.get_or_load("book", origin.load) == DEARER
    assert await writer.get_or_load("book", origin.load) == DEARER


async def test_a_load_begun_before_two_invalidations_is_not_stored_over_the_load_between_them(
    redis: Redis, name: str
) -> None:
    reader, writer, origin = product_cache(redis, name), product_cache(redis, name), Origin()
    origin.answers.clear()
    early = asyncio.create_task(reader.get_or_load("book", origin.load))
    await origin.asked.wait()

    await writer.invalidate("book")
    between = Origin(BOOK.model_copy(update={"price": 5000}))
    assert await writer.get_or_load("book", between.load) == between.product
    await writer.invalidate("book")
    latest = Origin(DEARER)
    latest.answers.clear()
    late = asyncio.create_task(writer.get_or_load("book", latest.load))
    await latest.asked.wait()
    origin.answers.set()
    assert await early == BOOK
    assert await redis.exists(entries_key(name)) == 0
    latest.answers.set()
    assert await late == DEARER
    assert await reader.get_or_load("book", origin.load) == DEARER


async def test_a_refresh_begun_before_an_invalidation_does_not_store_the_old_value_again(
    redis: Redis, name: str
) -> None:
    clock = Clock()
    reader, writer = (product_cache(redis, name, clock=clock) for _ in range(2))
    origin = Origin()
    await reader.get_or_load("book", origin.load)
    clock.now += SETTINGS.ttl
    origin.answers.clear()
    origin.asked.clear()
    assert await reader.get_or_load("book", origin.load) == BOOK
    await origin.asked.wait()

    origin.product = DEARER
    await writer.invalidate("book")
    origin.answers.set()
    await landed(reader)
    assert await redis.exists(entries_key(name)) == 0
    assert await reader.get_or_load("book", origin.load) == DEARER


async def test_a_reader_after_an_invalidation_does_not_join_a_load_from_before_it(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    origin.answers.clear()
    early = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    origin.product = DEARER
    await cache.invalidate("book")
    origin.asked.clear()
    late = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    origin.answers.set()
    assert (await early, await late) == (BOOK, DEARER)


async def test_a_reader_does_not_get_a_load_that_another_process_has_invalidated_before_it_began(
    redis: Redis, name: str
) -> None:
    reader, writer, origin = product_cache(redis, name), product_cache(redis, name), Origin()
    origin.answers.clear()
    early = asyncio.create_task(reader.get_or_load("book", origin.load))
    await origin.asked.wait()
    origin.product = DEARER
    await writer.invalidate("book")  # of which the reader's process knows nothing
    late = [asyncio.create_task(reader.get_or_load("book", origin.load)) for _ in range(20)]
    await until(lambda: count(name, "miss") == 21)
    origin.answers.set()
    assert await early == BOOK
    assert await asyncio.gather(*late) == [DEARER] * 20
    assert origin.loads == 2


async def test_a_release_with_another_schema_does_not_read_the_value_and_its_invalidation_ends_it_all_the_same(
    redis: Redis, name: str
) -> None:
    class NewProduct(Product):
        weight: int = 0

    old, new, origin = product_cache(redis, name), product_cache(redis, name, kind=NewProduct), Origin()
    await old.get_or_load("book", origin.load)
    await new.get_or_load("book", origin.load)
    await old.get_or_load("book", origin.load)
    assert origin.loads == 2  # each its own, side by side
    origin.product = DEARER
    await new.invalidate("book")
    assert await old.get_or_load("book", origin.load) == DEARER


async def test_the_values_of_releases_that_have_gone_do_not_pile_up(redis: Redis, name: str) -> None:
    await redis.hset(entries_key(name), mapping={f"gone-{n}": b"" for n in range(3)})
    await product_cache(redis, name)._loading.load("book", Origin().load)
    assert await redis.hlen(entries_key(name)) == 1
    assert await redis.ttl(entries_key(name)) > 0


# The lease


async def test_a_cancelled_reader_leaves_the_load_to_the_others(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    origin.answers.clear()
    first = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    second = asyncio.create_task(cache.get_or_load("book", origin.load))
    await until(lambda: count(name, "miss") == 2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    origin.answers.set()
    assert await second == BOOK
    assert origin.loads == 1


async def test_a_load_that_is_over_is_joined_by_nobody_even_in_the_same_turn_of_the_loop() -> None:
    """Its reader would wait for it again and again, and never let the loop take it away."""
    flights = Flights()

    async def load() -> Loaded:
        return Loaded(new_entry(b"1", SETTINGS, now=0, delta=0, draw=0), covers=-math.inf)

    async def join() -> asyncio.Task[Loaded]:
        assert over.done()
        assert flights._by_key["book"] is over
        return flights.start("book", load)

    over = flights.start("book", load)
    joined = asyncio.create_task(join())
    assert await joined is not over
    await flights.close()


async def test_the_deadline_of_the_reader_that_started_a_load_is_not_the_others(redis: Redis, name: str) -> None:
    left: list[float] = []

    async def load() -> Product:
        left.append(deadlines.remaining())
        return BOOK

    with deadlines.deadline(0.001):
        assert await product_cache(redis, name).get_or_load("book", load) == BOOK
    assert left == [float("inf")]


async def test_a_value_that_was_stored_between_miss_and_lease_is_taken_and_the_lease_given_back(
    redis: Redis, name: str
) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await cache.get_or_load("book", origin.load)
    assert (await cache._loading.load("book", origin.load)).entry.payload == BOOK.model_dump_json().encode()
    assert origin.loads == 1
    assert await redis.get(lease_key(name)) is None


async def test_a_failed_load_reaches_every_reader_and_is_neither_stored_nor_in_the_way(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    origin.error = OSError("the origin is away")
    results = await asyncio.gather(*(cache.get_or_load("book", origin.load) for _ in range(3)), return_exceptions=True)
    assert results == [origin.error] * 3
    assert await redis.keys(f"*{name}*") == []
    origin.error = None
    assert await cache.get_or_load("book", origin.load) == BOOK


async def test_a_process_that_dies_while_loading_holds_others_up_only_until_its_lease_ends(
    redis: Redis, name: str
) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await redis.set(lease_key(name), "token of the dead", px=60)
    assert await cache.get_or_load("book", origin.load) == BOOK
    assert await cache.get_or_load("book", origin.load) == BOOK
    assert origin.loads == 1


async def test_who_has_waited_long_enough_for_another_process_loads_by_itself_and_stores_nothing(
    redis: Redis, name: str
) -> None:
    cache, origin = product_cache(redis, name, settings=CacheSettings(wait_timeout=0.05)), Origin()
    await redis.set(lease_key(name), "token of the dead")
    assert await cache.get_or_load("book", origin.load) == BOOK
    assert await redis.exists(entries_key(name)) == 0
    assert (count(name, "miss"), count(name, "error")) == (1, 0)


async def test_a_load_that_outlived_its_lease_leaves_the_new_holder_alone(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    origin.answers.clear()
    slow = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    assert 0 < await redis.pttl(lease_key(name)) <= 1000 * SETTINGS.lock_ttl
    await redis.set(lease_key(name), "token of the next")
    origin.answers.set()
    assert await slow == BOOK
    assert await redis.get(lease_key(name)) == b"token of the next"
    assert await redis.exists(entries_key(name)) == 0


async def test_a_load_whose_lease_has_run_out_stores_nothing(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    origin.answers.clear()
    slow = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    await redis.delete(lease_key(name))
    origin.answers.set()
    assert await slow == BOOK
    assert await redis.exists(entries_key(name)) == 0


async def test_closing_ends_a_load_that_nobody_waits_for_and_gives_its_lease_back(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    origin.answers.clear()
    reader = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    reader.cancel()
    await cache.close()
    assert origin.concurrent == 0
    assert await redis.get(lease_key(name)) is None


# What is not there, and what cannot be read


async def test_an_absence_is_remembered_for_its_short_time_and_ends_with_the_creation(redis: Redis, name: str) -> None:
    clock = Clock()
    cache, origin = product_cache(redis, name, clock=clock), Origin(None)
    assert [await cache.get_or_load("book", origin.load) for _ in range(3)] == [None] * 3
    assert (origin.loads, count(name, "miss"), count(name, "negative")) == (1, 1, 2)
    assert 0 < await redis.pttl(entries_key(name)) <= 1000 * SETTINGS.negative_ttl

    origin.product = BOOK
    await cache.invalidate("book")
    assert await cache.get_or_load("book", origin.load) == BOOK


async def test_an_absence_is_never_stale(redis: Redis, name: str) -> None:
    clock = Clock()
    cache, origin = product_cache(redis, name, clock=clock), Origin(None)
    await cache.get_or_load("book", origin.load)
    clock.now += SETTINGS.negative_ttl
    origin.product = BOOK
    assert await cache.get_or_load("book", origin.load) == BOOK


async def test_what_is_stored_in_no_form_of_ours_is_loaded_anew(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await cache.get_or_load("book", origin.load)
    ((field, _),) = (await redis.hgetall(entries_key(name))).items()
    await redis.hset(entries_key(name), field, b"null")
    assert [await cache.get_or_load("book", origin.load) for _ in range(2)] == [BOOK] * 2
    assert origin.loads == 2


async def test_a_value_that_this_release_no_longer_takes_is_loaded_anew(redis: Redis, name: str) -> None:
    class Stricter(Product):
        @field_validator("price")
        @classmethod
        def _is_dear(cls, price: int) -> int:
            assert price > 5000
            return price

    Stricter.__name__ = "Product"  # the schema is the same
    strict, origin = product_cache(redis, name, kind=Stricter), Origin()
    await product_cache(redis, name).get_or_load("book", origin.load)
    origin.product = DEARER
    assert (await strict.get_or_load("book", origin.load)) == Stricter(**DEARER.model_dump())
    assert (origin.loads, count(name, "error")) == (2, 1)


# Without Redis


@pytest.mark.parametrize("failure", ["gone", "hanging"])
async def test_without_redis_readers_share_loads_and_few_run_at_once(failure: str, name: str) -> None:
    origin = Origin()
    origin.answers.clear()
    async with failing_redis(failure, within=0.05) as redis:
        cache = product_cache(redis, name)
        readers = [asyncio.create_task(cache.get_or_load(f"key-{n % 10}", origin.load)) for n in range(30)]
        await until(lambda: count(name, "bypass") == 30 and origin.concurrent == SETTINGS.bypass_concurrency)
        origin.answers.set()
        assert await asyncio.gather(*readers) == [BOOK] * 30
    assert (origin.loads, origin.peak) == (10, SETTINGS.bypass_concurrency)
    assert count(name, "error") == 30


async def test_without_redis_a_reader_that_cannot_load_in_time_is_told_so(name: str) -> None:
    origin = Origin()
    origin.answers.clear()
    limits = CacheSettings(bypass_concurrency=1, wait_timeout=0.05)
    async with failing_redis("gone") as redis:
        cache = product_cache(redis, name, settings=limits)
        first = asyncio.create_task(cache.get_or_load("a", origin.load))
        await origin.asked.wait()
        with pytest.raises(ApiError) as caught:
            await cache.get_or_load("b", origin.load)
        origin.answers.set()
        assert await first == BOOK
    assert caught.value.code is ErrorCode.OVERLOADED


async def test_an_invalidation_that_redis_does_not_take_is_reported_not_raised_after_the_commit(name: str) -> None:
    with captured_logs() as logs:
        async with failing_redis("gone") as redis:
            cache = product_cache(redis, name)
            cache.invalidate_soon("book")
            await cache.close()
    assert count(name, "error") == 1
    assert logs.one("cache_invalidation_failed")["key"] == "book"


async def test_invalidate_soon_is_done_before_the_cache_closes(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await cache.get_or_load("book", origin.load)
    after_commit = partial(cache.invalidate_soon, "book")
    after_commit()
    await cache.close()
    assert await redis.exists(entries_key(name)) == 0
