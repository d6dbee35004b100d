"""How old a value may be: fresh, renewed early by one of many, stale, and kept for when its origin fails."""

import asyncio
import math
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
    landed,
    lease_key,
    product_cache,
)
from captured_logs import captured_logs
from chassis.caching import Cache
from chassis.caching.entries import ABSENT, Entry, freshness_of, is_renewed_early, new_entry, retention_of
from chassis.config.settings import CacheSettings
from chassis.logging import canonical_line
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from redis.asyncio import Redis

FRESH, STALE, GONE = (
    SETTINGS.ttl,
    SETTINGS.ttl + SETTINGS.stale_while_revalidate,
    SETTINGS.ttl + SETTINGS.stale_if_error,
)


@pytest.fixture
def name() -> str:
    return f"test-{uuid4().hex}"


# Decisions


def entry(payload: bytes = b"{}", *, delta: float = 0.0) -> Entry:
    return new_entry(payload, SETTINGS, now=0, delta=delta, draw=0)


def test_a_value_goes_from_fresh_to_stale_to_expired_to_nothing() -> None:
    def worth(now: float) -> str:
        return freshness_of(entry(), SETTINGS, now=now, draw=1)

    assert freshness_of(None, SETTINGS, now=0, draw=1) == "miss"
    assert [worth(now) for now in (0, FRESH - 0.1)] == ["hit"] * 2
    assert [worth(now) for now in (FRESH, STALE - 0.1)] == ["stale"] * 2
    assert [worth(now) for now in (STALE, GONE - 0.1)] == ["expired"] * 2
    assert [worth(now) for now in (GONE, GONE + 1e6)] == ["miss"] * 2


def test_an_absence_goes_from_known_to_nothing() -> None:
    assert freshness_of(entry(ABSENT), SETTINGS, now=SETTINGS.negative_ttl - 0.1, draw=1) == "negative"
    assert freshness_of(entry(ABSENT), SETTINGS, now=SETTINGS.negative_ttl, draw=1) == "miss"


def test_redis_keeps_a_value_as_long_as_it_may_be_needed() -> None:
    assert retention_of(entry(), SETTINGS) == GONE
    assert retention_of(entry(ABSENT), SETTINGS) == SETTINGS.negative_ttl


@given(draw=st.floats(0, 1), jitter=st.floats(0, 0.99))
def test_jitter_shortens_a_ttl_by_its_share_at_most_and_never_lengthens_it(draw: float, jitter: float) -> None:
    limits = CacheSettings(ttl=60, negative_ttl=5, ttl_jitter=jitter)
    for payload, ttl in ((b"{}", 60), (ABSENT, 5)):
        jittered = new_entry(payload, limits, now=1000, delta=0, draw=draw).fresh_until - 1000
        assert ttl * (1 - jitter) - 1e-9 <= jittered <= ttl


@given(st.binary(), st.floats(0, 1e10), st.floats(0, 100), st.floats(0, 1e10))
def test_what_was_packed_is_unpacked_to_the_millisecond(payload: bytes, at: float, delta: float, until: float) -> None:
    found = Entry.unpack(Entry(payload, at, delta, until).pack())
    assert found is not None
    assert found.payload == payload
    assert found[1:] == pytest.approx((at, delta, until), abs=1e-3)
    assert Entry.unpack(found.pack()) == found


@pytest.mark.parametrize("packed", [None, b"", b"null", b"1 2 3", b"a b c {}"])
def test_what_nobody_packed_is_nothing(packed: bytes | None) -> None:
    assert Entry.unpack(packed) is None


def test_xfetch_renews_iff_now_less_delta_times_beta_times_ln_of_the_draw_reaches_the_expiry() -> None:
    slow = entry(delta=2.0)  # expires at 60
    draw = math.exp(-3)  # so it looks 2 s × 3 ahead, or with β = 2 twice that
    assert not is_renewed_early(slow, 1, now=53.99, draw=draw)
    assert is_renewed_early(slow, 1, now=54.01, draw=draw)
    assert is_renewed_early(slow, 2, now=48.01, draw=draw)
    assert not is_renewed_early(slow, 0, now=59.99, draw=1e-12)
    assert freshness_of(slow, SETTINGS, now=54.01, draw=draw) == "early"


@given(delta=st.floats(0.001, 10), beta=st.floats(0.1, 10), draw=st.floats(1e-15, 1))
def test_a_reader_looks_ahead_as_far_as_its_draw_says_to_the_microsecond(
    delta: float, beta: float, draw: float
) -> None:
    begin = FRESH + delta * beta * math.log(draw)
    assert is_renewed_early(entry(delta=delta), beta, now=begin + 1e-6, draw=draw)
    assert not is_renewed_early(entry(delta=delta), beta, now=begin - 1e-6, draw=draw)


# Stale while revalidating


async def test_a_stale_value_is_answered_at_once_while_one_load_renews_it(redis: Redis, name: str) -> None:
    cache, origin, clock = await cached(redis, name)
    clock.now += FRESH
    origin.product = DEARER
    origin.answers.clear()
    assert [await cache.get_or_load("book", origin.load) for _ in range(20)] == [BOOK] * 20
    await asyncio.wait_for(origin.asked.wait(), 5)
    origin.answers.set()
    await landed(cache)
    assert await cache.get_or_load("book", origin.load) == DEARER
    assert (origin.loads, count(name, "stale"), count(name, "hit")) == (2, 20, 1)


async def test_a_stale_value_that_another_process_is_renewing_is_not_loaded_here_too(redis: Redis, name: str) -> None:
    cache, origin, clock = await cached(redis, name)
    clock.now += FRESH
    await redis.set(lease_key(name), "token of another process")
    assert await cache.get_or_load("book", origin.load) == BOOK
    await landed(cache)
    assert origin.loads == 1
    assert await redis.get(lease_key(name)) == b"token of another process"


async def test_a_refresh_that_finds_the_value_renewed_or_invalidated_gives_its_lease_back(
    redis: Redis, name: str
) -> None:
    cache, origin, clock = await cached(redis, name)
    clock.now += FRESH
    ((field, packed),) = (await redis.hgetall(entries_key(name))).items()
    for renewed in (entry(b"{}")._replace(fresh_until=clock.now + 1), None):
        if renewed:
            await redis.hset(entries_key(name), field, renewed.pack())
        else:
            await redis.delete(entries_key(name))
        seen = Entry.unpack(packed)
        assert seen is not None
        await cache._loading.refresh("book", origin.load, seen)
        assert origin.loads == 1
        assert await redis.get(lease_key(name)) is None


async def test_a_reader_that_joins_a_refresh_of_what_was_invalidated_loads_by_itself(redis: Redis, name: str) -> None:
    cache, origin, clock = await cached(redis, name)
    clock.now += FRESH
    origin.product = DEARER
    await redis.set(lease_key(name), "token of another process", px=40)
    assert await cache.get_or_load("book", origin.load) == BOOK  # its refresh has not run yet
    await redis.delete(entries_key(name))  # by another process
    assert await cache.get_or_load("book", origin.load) == DEARER


# Stale if error


async def test_a_stale_value_is_answered_while_its_origin_fails_and_each_answer_says_so(
    redis: Redis, name: str
) -> None:
    cache, origin, clock = await cached(redis, name)
    clock.now += FRESH
    origin.error = OSError("the origin is away")
    with captured_logs() as logs:
        for load in range(2, 5):
            with canonical_line() as line:
                assert await cache.get_or_load("book", origin.load) == BOOK
            assert (line["cache_hits"], line["cache_stale"]) == (1, 1)
            await landed(cache)
            assert origin.loads == load
    assert count(name, "stale") == 3
    failed = logs.of("cache_refresh_failed")[0]
    assert (failed["level"], failed["cache"]) == ("warning", name)
    assert "the origin is away" in failed["error"]


async def test_an_expired_value_is_answered_only_if_its_origin_fails(redis: Redis, name: str) -> None:
    cache, origin, clock = await cached(redis, name)
    clock.now += STALE
    origin.error = OSError("the origin is away")
    assert await cache.get_or_load("book", origin.load) == BOOK
    assert (count(name, "stale"), count(name, "miss")) == (1, 1)

    clock.now += STALE
    origin.error, origin.product = None, DEARER
    assert await cache.get_or_load("book", origin.load) == DEARER
    assert (count(name, "stale"), count(name, "miss")) == (1, 2)


async def test_an_expired_value_is_answered_if_its_origin_takes_too_long(redis: Redis, name: str) -> None:
    cache, origin, clock = await cached(redis, name, settings=CacheSettings(wait_timeout=0.05))
    clock.now += STALE
    origin.answers.clear()
    assert await cache.get_or_load("book", origin.load) == BOOK
    assert count(name, "stale") == 1
    origin.answers.set()
    await landed(cache)


async def test_once_its_origin_has_failed_nobody_waits_for_it_while_there_is_an_old_value(
    redis: Redis, name: str
) -> None:
    cache, origin, clock = await cached(redis, name)
    clock.now += STALE
    origin.error = OSError("the origin is away")
    kept = await redis.pttl(entries_key(name))
    assert await cache.get_or_load("book", origin.load) == BOOK
    assert 0 < await redis.pttl(entries_key(name)) <= kept  # but it is not kept for longer than before

    origin.answers.clear()
    for reader in (cache, product_cache(redis, name, clock=clock)):
        assert await asyncio.wait_for(reader.get_or_load("book", origin.load), 1) == BOOK
    origin.answers.set()
    await landed(cache)


async def test_a_value_that_was_invalidated_while_its_origin_failed_is_not_kept(redis: Redis, name: str) -> None:
    cache, origin, clock = await cached(redis, name)
    clock.now += FRESH
    origin.answers.clear()
    origin.error = OSError("the origin is away")
    assert await cache.get_or_load("book", origin.load) == BOOK
    await origin.asked.wait()
    await product_cache(redis, name).invalidate("book")
    origin.answers.set()
    await landed(cache)
    assert await redis.exists(entries_key(name)) == 0


async def test_an_old_value_that_redis_has_let_go_is_not_put_back(redis: Redis, name: str) -> None:
    cache, origin, clock = await cached(redis, name)
    clock.now += FRESH
    origin.answers.clear()
    origin.error = OSError("the origin is away")
    assert await cache.get_or_load("book", origin.load) == BOOK
    await origin.asked.wait()
    await redis.delete(entries_key(name))  # as its end would
    origin.answers.set()
    await landed(cache)
    assert await redis.exists(entries_key(name)) == 0


# Early renewal


async def test_a_value_that_is_renewed_early_is_a_hit_for_its_reader_and_new_for_the_next(
    redis: Redis, name: str
) -> None:
    draws = iter([1 - math.exp(-3), 0.0, 0.0])  # the reader's, which looks 3 × 2 s ahead; the load's; the next one's
    clock = Clock()
    cache, origin = product_cache(redis, name, clock=clock, random=lambda: next(draws)), Origin()
    await store(cache, Entry(BOOK.model_dump_json().encode(), clock.now, 2.0, clock.now + 60))
    clock.now += 54.1
    origin.product = DEARER
    assert await cache.get_or_load("book", origin.load) == BOOK
    await landed(cache)
    assert await cache.get_or_load("book", origin.load) == DEARER
    assert (origin.loads, count(name, "hit"), count(name, "stale")) == (1, 2, 0)


# How old answers were


async def test_the_age_of_every_answer_from_the_cache_is_measured_and_an_absence_counts(
    redis: Redis, name: str
) -> None:
    cache, origin, clock = await cached(redis, name)
    for age in (0, 20, FRESH):
        clock.now = 1_000_000.0 + age
        await cache.get_or_load("book", origin.load)
    assert REGISTRY.get_sample_value("cache_staleness_seconds_count", {"cache": name}) == 3
    assert REGISTRY.get_sample_value("cache_staleness_seconds_sum", {"cache": name}) == pytest.approx(80, abs=0.5)
    await landed(cache)


def test_an_age_counts_from_the_beginning_of_the_load_and_is_never_negative() -> None:
    assert entry(delta=2.0).age(10.0) == 12.0
    assert entry().age(-5.0) == 0.0  # by a clock that is behind


async def test_values_stored_together_do_not_expire_together(redis: Redis, name: str) -> None:
    draws = iter([0.0, 0.0, 0.0, 0.5, 0.0, 1.0])
    cache, origin = product_cache(redis, name, random=lambda: next(draws)), Origin()
    for key in ["a", "b", "c"]:
        await cache.get_or_load(key, origin.load)
    remaining = [await redis.ttl(entries_key(name, key)) for key in ["a", "b", "c"]]
    assert remaining == pytest.approx([GONE, GONE - 3, GONE - 6], abs=1)


async def cached(
    redis: Redis, name: str, *, settings: CacheSettings = SETTINGS
) -> tuple[Cache[Product], Origin, Clock]:
    """A cache in which the book has just been loaded, its origin and its clock."""
    clock, origin = Clock(), Origin()
    cache = product_cache(redis, name, clock=clock, settings=settings)
    await cache.get_or_load("book", origin.load)
    origin.asked.clear()
    return cache, origin, clock


async def store(cache: Cache[Product], stored: Entry) -> None:
    token = uuid4().hex
    assert (await cache._store.take_lease("book", token, seconds=10))[0]
    assert await cache._store.end_lease("book", token, stored, seconds=100)
