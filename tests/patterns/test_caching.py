"""One load per cold key, no stale value after an invalidation, and answers while Redis or the origin fails."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID, uuid4

import pytest
from chassis.caching import ABSENT, Cache, judge, lifetime
from chassis.errors import ApiError, ErrorCode
from chassis.pooling import create_redis
from chassis.settings import CacheSettings, RedisSettings
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import BaseModel, TypeAdapter
from redis.asyncio import Redis

SETTINGS = CacheSettings()


class Product(BaseModel):
    id: UUID
    name: str
    price: int


BOOK = Product(id=UUID(int=1), name="book", price=1250)


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


async def test_a_load_begun_before_an_invalidation_is_not_stored(redis: Redis, name: str) -> None:
    reader, writer, origin = product_cache(redis, name), product_cache(redis, name), Origin()
    origin.answers.clear()
    early = asyncio.create_task(reader.get_or_load("book", origin.load))
    await origin.asked.wait()

    origin.product = dearer = BOOK.model_copy(update={"price": 9900})
    await writer.invalidate("book")
    origin.answers.set()
    assert await early == BOOK
    assert await reader.get_or_load("book", origin.load) == dearer
    assert await writer.get_or_load("book", origin.load) == dearer


async def test_a_load_begun_before_an_invalidation_is_not_stored_over_a_later_one(redis: Redis, name: str) -> None:
    reader, writer, origin = product_cache(redis, name), product_cache(redis, name), Origin()
    origin.answers.clear()
    early = asyncio.create_task(reader.get_or_load("book", origin.load))
    await origin.asked.wait()

    renewed = Origin(BOOK.model_copy(update={"price": 9900}))
    renewed.answers.clear()
    await writer.invalidate("book")
    late = asyncio.create_task(writer.get_or_load("book", renewed.load))
    await renewed.asked.wait()
    origin.answers.set()
    assert await early == BOOK
    renewed.answers.set()
    assert await late == renewed.product
    assert await reader.get_or_load("book", origin.load) == renewed.product


async def test_a_reader_after_an_invalidation_does_not_join_a_load_from_before_it(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    origin.answers.clear()
    early = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    origin.product = dearer = BOOK.model_copy(update={"price": 9900})
    await cache.invalidate("book")
    origin.asked.clear()
    late = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    origin.answers.set()
    assert (await early, await late) == (BOOK, dearer)


async def test_get_then_set_stores_a_stale_value_over_an_invalidation(redis: Redis) -> None:
    """The version that goes wrong, of docs/patterns/caching.md."""
    origin, adapter = Origin(), TypeAdapter(Product)
    origin.answers.clear()

    async def naive_get_or_load() -> Product | None:
        if payload := await redis.get("naive"):
            return adapter.validate_json(payload)
        product = await origin.load()
        await redis.set("naive", adapter.dump_json(product) if product else b"null", ex=3600)
        return product

    early = asyncio.create_task(naive_get_or_load())
    await origin.asked.wait()
    origin.product = BOOK.model_copy(update={"price": 9900})
    await redis.delete("naive")
    origin.answers.set()
    await early
    assert await naive_get_or_load() == BOOK  # for an hour, though the price has changed


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


async def test_an_absence_is_remembered_for_its_short_time_and_ends_with_the_creation(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin(None)
    assert [await cache.get_or_load("book", origin.load) for _ in range(3)] == [None] * 3
    assert (origin.loads, count(name, "miss"), count(name, "negative")) == (1, 1, 2)
    assert 0 < await redis.pttl(value_key(name)) <= 1000 * SETTINGS.negative_ttl

    origin.product = BOOK
    await cache.invalidate("book")
    assert await cache.get_or_load("book", origin.load) == BOOK


async def test_a_stale_value_is_answered_at_once_while_one_load_renews_it(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await cache.get_or_load("book", origin.load)
    await make_stale(redis, name)
    origin.product = dearer = BOOK.model_copy(update={"price": 9900})
    origin.answers.clear()
    assert [await cache.get_or_load("book", origin.load) for _ in range(20)] == [BOOK] * 20
    await until(lambda: origin.loads == 2)
    origin.answers.set()
    await until(lambda: not cache._loads)
    assert await cache.get_or_load("book", origin.load) == dearer
    assert (origin.loads, count(name, "stale")) == (2, 20)


async def test_a_stale_value_is_answered_while_its_origin_fails(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await cache.get_or_load("book", origin.load)
    await make_stale(redis, name)
    origin.error = OSError("the origin is away")
    for load in range(2, 5):
        assert await cache.get_or_load("book", origin.load) == BOOK
        await until(lambda: not cache._loads)
        assert origin.loads == load


async def test_a_stale_value_that_another_process_is_renewing_is_not_loaded_here_too(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await cache.get_or_load("book", origin.load)
    await make_stale(redis, name)
    await redis.set(lease_key(name), "token of another process")
    assert await cache.get_or_load("book", origin.load) == BOOK
    await until(lambda: not cache._loads)
    assert origin.loads == 1


async def test_a_value_that_was_stored_between_miss_and_lease_is_taken_and_the_lease_given_back(
    redis: Redis, name: str
) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await cache.get_or_load("book", origin.load)
    assert await cache._load("book", origin.load) == BOOK
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
    assert await redis.get(value_key(name)) is None


async def test_another_schema_version_does_not_see_the_value(redis: Redis, name: str) -> None:
    origin = Origin()
    await product_cache(redis, name, version=1).get_or_load("book", origin.load)
    await product_cache(redis, name, version=2).get_or_load("book", origin.load)
    assert origin.loads == 2


async def test_an_unreadable_value_is_loaded_anew(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await redis.set(value_key(name), b'{"price": "changed shape"}', ex=90)
    assert [await cache.get_or_load("book", origin.load) for _ in range(2)] == [BOOK] * 2
    assert origin.loads == 1
    assert (count(name, "miss"), count(name, "hit")) == (1, 1)


async def test_invalidate_soon_is_done_before_the_cache_closes(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    await cache.get_or_load("book", origin.load)
    after_commit = partial(cache.invalidate_soon, "book")
    after_commit()
    await cache.close()
    assert await redis.get(value_key(name)) is None


async def test_closing_ends_a_load_that_nobody_waits_for_and_gives_its_lease_back(redis: Redis, name: str) -> None:
    cache, origin = product_cache(redis, name), Origin()
    origin.answers.clear()
    reader = asyncio.create_task(cache.get_or_load("book", origin.load))
    await origin.asked.wait()
    reader.cancel()
    await cache.close()
    assert origin.concurrent == 0
    assert await redis.get(lease_key(name)) is None


@pytest.mark.parametrize("failure", ["gone", "hanging"])
async def test_without_redis_readers_share_loads_and_few_run_at_once(failure: str, name: str) -> None:
    origin = Origin()
    origin.answers.clear()
    async with failing_redis(failure) as redis:
        cache = product_cache(redis, name, timeout=0.05)
        readers = [asyncio.create_task(cache.get_or_load(f"key-{n % 10}", origin.load)) for n in range(30)]
        await until(lambda: count(name, "bypass") == 30 and origin.concurrent == SETTINGS.bypass_concurrency)
        origin.answers.set()
        assert await asyncio.gather(*readers) == [BOOK] * 30
    assert (origin.loads, origin.peak) == (10, SETTINGS.bypass_concurrency)
    assert count(name, "error") == 30


async def test_without_redis_a_reader_that_cannot_load_in_time_is_told_so(name: str) -> None:
    origin = Origin()
    origin.answers.clear()
    limits = CacheSettings(bypass_concurrency=1, lock_ttl=0.05)
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
    async with failing_redis("gone") as redis:
        cache = product_cache(redis, name)
        cache.invalidate_soon("book")
        await cache.close()
    assert count(name, "error") == 1


@given(chance=st.floats(0, 1), jitter=st.floats(0, 0.99))
def test_jitter_shortens_a_ttl_by_its_share_at_most_and_never_lengthens_it(chance: float, jitter: float) -> None:
    limits = CacheSettings(ttl=60, stale_ttl=30, negative_ttl=5, ttl_jitter=jitter)
    assert 1000 * (60 * (1 - jitter) + 30) - 1 <= lifetime(b"{}", limits, chance=chance) <= 90_000
    assert 1000 * 5 * (1 - jitter) - 1 <= lifetime(ABSENT, limits, chance=chance) <= 5_000


async def test_values_stored_together_do_not_expire_together(redis: Redis, name: str) -> None:
    chances = iter([0.0, 0.5, 1.0])
    cache, origin = product_cache(redis, name, chance=lambda: next(chances)), Origin()
    for key in ["a", "b", "c"]:
        await cache.get_or_load(key, origin.load)
    remaining = [await redis.ttl(value_key(name, key)) for key in ["a", "b", "c"]]
    assert remaining == pytest.approx([90, 87, 84], abs=1)


def test_a_value_is_stale_in_the_last_part_of_its_life() -> None:
    assert judge(None, -2, stale_ttl=30) == "miss"
    assert judge(ABSENT, 1, stale_ttl=30) == "negative"
    assert judge(b"{}", 30.001, stale_ttl=30) == "hit"
    assert judge(b"{}", 30, stale_ttl=30) == "stale"


def product_cache(
    redis: Redis,
    name: str,
    *,
    version: int = 1,
    timeout: float = 10,
    settings: CacheSettings = SETTINGS,
    chance: Callable[[], float] = lambda: 0.0,
) -> Cache[Product]:
    return Cache(redis, TypeAdapter(Product), settings, name=name, version=version, timeout=timeout, chance=chance)


def value_key(name: str, key: str = "book") -> str:
    return f"{{cache:{name}:v1:{key}}}"


def lease_key(name: str) -> str:
    return f"{value_key(name)}:lease"


async def make_stale(redis: Redis, name: str) -> None:
    assert await redis.pexpire(value_key(name), round(1000 * SETTINGS.stale_ttl) - 1)


def count(name: str, result: str) -> float:
    return REGISTRY.get_sample_value("cache_requests_total", {"cache": name, "result": result}) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  counters and task sets signal nothing
            await asyncio.sleep(0.001)


@asynccontextmanager
async def failing_redis(failure: str) -> AsyncIterator[Redis]:
    """A client of a closed port ("gone"), or of a listener that accepts and never answers ("hanging")."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if failure == "hanging":
            listener.listen()
        redis = create_redis(RedisSettings(port=listener.getsockname()[1]), timeout=10)
        yield redis
        await redis.aclose()
