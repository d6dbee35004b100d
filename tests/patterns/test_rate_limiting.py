"""GCRA by property, the same decisions from the script on the real server, and what happens without Redis."""

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from fractions import Fraction

import http_sf
import pytest
from chassis.logging import canonical_line
from chassis.pooling import create_redis
from chassis.rate_limiting import (
    MICROSECONDS,
    Decision,
    LocalLimiter,
    Policy,
    RateLimiter,
    _describe,
    _interval,
    add_fields,
    decide,
    default_policy,
)
from chassis.settings import RateLimitSettings, RedisSettings
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from redis.asyncio import Redis

NOW = 1_700_000_000 * MICROSECONDS
REDIS_TIMEOUT = 0.05
# What a busy machine with two cores may add to a time-out of 50 ms.
SLACK = 0.15

rates = st.floats(min_value=0.01, max_value=10_000)
bursts = st.integers(min_value=1, max_value=20)
# Arrivals: microseconds since the one before (often none: a burst), and cost.
arrivals = st.lists(
    st.tuples(st.one_of(st.just(0), st.integers(0, 1_000), st.integers(0, 5 * MICROSECONDS)), st.integers(1, 4)),
    max_size=30,
)
# The same on a clock that may also step back.
unsteady_arrivals = st.lists(st.tuples(st.integers(-MICROSECONDS, MICROSECONDS), st.integers(1, 4)), max_size=30)


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def run(sequence: list[tuple[int, int]], *, rate: float, burst: int) -> list[tuple[int, int, Decision]]:
    """(now, cost, decision) for each arrival."""
    results: list[tuple[int, int, Decision]] = []
    tat, now = 0, NOW
    for gap, wanted in sequence:
        now += gap
        cost = min(wanted, burst)
        decision = decide(tat, now, rate=rate, burst=burst, cost=cost)
        tat = decision.tat
        results.append((now, cost, decision))
    return results


@given(sequence=arrivals, rate=rates, burst=bursts)
@example(sequence=[(0, 1), (333_333, 1)], rate=3.0, burst=1)  # a third of a second is a little more
def test_no_span_admits_more_than_the_burst_and_what_the_rate_refills(
    sequence: list[tuple[int, int]], rate: float, burst: int
) -> None:
    admitted = [(now, cost) for now, cost, decision in run(sequence, rate=rate, burst=burst) if decision.allowed]
    for first in range(len(admitted)):
        spent = 0
        for now, cost in admitted[first:]:
            spent += cost
            assert spent <= burst + math.floor(Fraction(rate) * (now - admitted[first][0]) / MICROSECONDS)


@given(sequence=arrivals, rate=rates, burst=bursts)
def test_a_refused_caller_is_admitted_after_retry_after_and_not_a_microsecond_earlier(
    sequence: list[tuple[int, int]], rate: float, burst: int
) -> None:
    for now, cost, refused in run(sequence, rate=rate, burst=burst):
        if refused.allowed:
            continue
        ready = now + round(refused.retry_after * MICROSECONDS)
        assert decide(refused.tat, ready, rate=rate, burst=burst, cost=cost).allowed
        assert not decide(refused.tat, ready - 1, rate=rate, burst=burst, cost=cost).allowed


@given(sequence=arrivals, rate=rates, burst=bursts)
def test_remaining_is_what_can_be_spent_at_once_and_no_unit_more(
    sequence: list[tuple[int, int]], rate: float, burst: int
) -> None:
    for now, _, decision in run(sequence, rate=rate, burst=burst):
        left = decision.remaining
        assert left == 0 or decide(decision.tat, now, rate=rate, burst=burst, cost=left).allowed
        assert left == burst or not decide(decision.tat, now, rate=rate, burst=burst, cost=left + 1).allowed


@given(tat=st.integers(0, NOW * 2), rate=rates, burst=bursts)
def test_a_clock_that_steps_back_locks_nobody_out_for_longer_than_a_burst(tat: int, rate: float, burst: int) -> None:
    lockout = burst * _interval(rate)
    decision = decide(tat, NOW, rate=rate, burst=burst, cost=1)
    assert decision.reset_after <= lockout / MICROSECONDS
    assert decide(decision.tat, NOW + lockout, rate=rate, burst=burst, cost=1).allowed


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=arrivals | unsteady_arrivals, rate=rates, burst=bursts)
async def test_the_script_decides_as_the_function_does(
    redis: Redis, sequence: list[tuple[int, int]], rate: float, burst: int
) -> None:
    script = limiter(redis)._script
    pipeline = redis.pipeline()
    pipeline.delete("agreement")
    expected = run(sequence, rate=rate, burst=burst)
    for now, cost, _ in expected:
        await script(keys=["agreement"], args=[_interval(rate), burst, cost, now], client=pipeline)
    _, *answers = await pipeline.execute()
    described = [
        _describe(allowed == 1, tat, now, interval=_interval(rate), burst=burst, cost=cost)
        for (allowed, tat, now), (_, cost, _) in zip(answers, expected, strict=True)
    ]
    assert described == [decision for _, _, decision in expected]


async def test_200_callers_at_once_through_two_clients_are_admitted_exactly_the_burst(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    other = create_redis(redis_settings, timeout=10)
    limiters = [limiter(redis, timeout=10), limiter(other, timeout=10)]
    policy = Policy("concurrent", "standard", rate=0.001, burst=50)
    decisions = await asyncio.gather(*(limiters[n % 2].check("client-a", policy) for n in range(200)))
    await other.aclose()
    assert sum(decision.allowed for decision in decisions) == 50
    assert count(policy, decision="allowed", backend="redis") == 50
    assert count(policy, decision="refused", backend="redis") == 150


async def test_principals_policies_tiers_and_services_have_limits_of_their_own(redis: Redis) -> None:
    policy = Policy("own", "standard", rate=0.001, burst=1)
    orders, payments = limiter(redis), limiter(redis, namespace="payments")
    assert (await orders.check("a", policy)).allowed
    assert not (await orders.check("a", policy)).allowed
    assert (await orders.check("b", policy)).allowed
    assert (await payments.check("a", policy)).allowed
    assert (await orders.check("a", Policy("own", "partner", rate=0.001, burst=1))).allowed
    assert (await orders.check("a", Policy("other", "standard", rate=0.001, burst=1))).allowed


async def test_an_expensive_route_takes_its_cost(redis: Redis) -> None:
    policy = Policy("cost", "standard", rate=0.001, burst=10)
    assert (await limiter(redis).check("a", policy, cost=7)).remaining == 3
    assert not (await limiter(redis).check("a", policy, cost=4)).allowed
    assert (await limiter(redis).check("a", policy, cost=3)).allowed


async def test_a_route_dearer_than_the_burst_passes_when_rested_and_takes_all_of_it(redis: Redis) -> None:
    policy = Policy("dearer", "standard", rate=0.001, burst=3)
    limits = limiter(redis)
    assert (await limits.check("a", policy, cost=5)).remaining == 0
    assert not (await limits.check("a", policy, cost=1)).allowed


@pytest.mark.parametrize("failure", [None, "gone"])
async def test_a_dark_launch_refuses_nobody_and_counts_whom_it_would(redis: Redis, failure: str | None) -> None:
    policy = Policy(f"dark-{failure}", "standard", rate=0.001, burst=2, dark_launch=True)
    async with failing_redis(failure) if failure else nullcontext(redis) as used:
        limits = limiter(used)
        with canonical_line() as line:
            allowed = [(await limits.check("a", policy)).allowed for _ in range(5)]
    backend = "local" if failure else "redis"
    assert allowed == [True] * 5
    assert count(policy, decision="allowed", backend=backend) == 2
    assert count(policy, decision="would_refuse", backend=backend) == 3
    assert count(policy, decision="refused", backend=backend) == 0
    assert line["rate_limit_would_refuse"] == policy.name


async def test_the_state_of_a_principal_expires_once_its_burst_is_back(redis: Redis) -> None:
    await limiter(redis).check("a", Policy("expiry", "standard", rate=1.0, burst=30), cost=10)
    [key] = await redis.keys("rate_limit:*")
    assert 10 <= await redis.ttl(key) <= 11


async def test_a_flushed_server_is_given_the_script_again(redis: Redis) -> None:
    limits = limiter(redis)
    policy = Policy("flushed", "standard", rate=0.001, burst=5)
    await limits.check("a", policy)
    await redis.script_flush()
    assert (await limits.check("a", policy)).remaining == 3
    assert count(policy, decision="allowed", backend="local") == 0


@pytest.mark.parametrize("failure", ["gone", "hanging"])
async def test_without_redis_this_process_admits_its_share_and_decides_within_the_time_out(failure: str) -> None:
    policy = Policy(failure, "standard", rate=0.001, burst=50)
    async with failing_redis(failure) as redis:
        limits = limiter(redis, replicas=5)
        started = time.perf_counter()
        first = await limits.check("a", policy)
        elapsed = time.perf_counter() - started
        others = [await limits.check("a", policy) for _ in range(19)]
    assert elapsed < REDIS_TIMEOUT + SLACK
    assert sum(decision.allowed for decision in [first, *others]) == 10
    assert count(policy, decision="allowed", backend="local") == 10
    assert count(policy, decision="refused", backend="local") == 10


async def test_a_hanging_redis_costs_one_request_per_pause_its_time_out() -> None:
    clock = ManualClock()
    policy = Policy("pause", "standard", rate=0.001, burst=100)
    async with failing_redis("hanging") as redis:
        limits = limiter(redis, clock=clock)
        await limits.check("a", policy)
        started = time.perf_counter()
        for _ in range(50):
            await limits.check("a", policy)
        assert time.perf_counter() - started < 50 * REDIS_TIMEOUT / 2

        clock.seconds += 1.0
        asked = [limits._may_ask_redis() for _ in range(10)]
    assert asked == [True] + [False] * 9


async def test_redis_decides_again_once_it_is_back(redis: Redis) -> None:
    clock = ManualClock()
    policy = Policy("back", "standard", rate=0.001, burst=10)
    limits = limiter(redis, clock=clock)
    limits._redis_failed(ConnectionError("gone"))
    await limits.check("a", policy)
    clock.seconds += 1.0
    await limits.check("a", policy)
    await limits.check("a", policy)
    assert count(policy, decision="allowed", backend="local") == 1
    assert count(policy, decision="allowed", backend="redis") == 2


def test_the_local_limiter_remembers_a_bounded_number_of_principals() -> None:
    local = LocalLimiter(max_keys=2, clock=ManualClock())
    policy = Policy("local", "standard", rate=0.001, burst=1)
    admitted = [local.check(key, policy, cost=1).allowed for key in ["a", "b", "a", "c", "a", "b"]]
    assert admitted == [True, True, False, True, False, True]
    assert len(local._tats) == 2


def test_a_route_dearer_than_the_local_share_still_passes_when_rested() -> None:
    local = LocalLimiter(max_keys=2, clock=ManualClock())
    share = Policy("dear", "standard", rate=1.0, burst=10).share(5)
    assert [local.check("a", share, cost=8).allowed for _ in range(2)] == [True, False]


def test_a_tier_multiplies_the_limit_and_an_unnamed_one_leaves_it() -> None:
    limits = RateLimitSettings(rate_per_second=10, burst=50, tiers={"partner": 4.0})
    assert default_policy(limits, tier="partner") == Policy("default", "partner", rate=40.0, burst=200)
    assert default_policy(limits, tier="standard") == Policy("default", "standard", rate=10.0, burst=50)


def test_the_fields_are_structured_and_say_what_is_left_and_when_it_is_whole_again() -> None:
    policy = Policy("burst", "standard", rate=100 / 60, burst=100)
    tat = 0
    for _ in range(50):
        tat = (decision := decide(tat, NOW, rate=policy.rate, burst=policy.burst, cost=1)).tat
    fields = fields_of(decision, policy)
    assert fields == {"RateLimit-Policy": '"burst";q=100;w=60', "RateLimit": '"burst";r=50;t=30'}
    assert http_sf.parse(fields["RateLimit-Policy"].encode(), tltype="list") == [("burst", {"q": 100, "w": 60})]
    assert http_sf.parse(fields["RateLimit"].encode(), tltype="list") == [("burst", {"r": 50, "t": 30})]


def test_several_policies_share_the_fields_each_under_its_name() -> None:
    fields: dict[str, str] = {}
    for policy in [Policy("default", "standard", rate=10, burst=50), Policy("bad_credentials", "standard", 1, 60)]:
        add_fields(fields, decide(0, NOW, rate=policy.rate, burst=policy.burst, cost=5), policy)
    assert http_sf.parse(fields["RateLimit-Policy"].encode(), tltype="list") == [
        ("default", {"q": 50, "w": 5}),
        ("bad_credentials", {"q": 60, "w": 60}),
    ]
    assert http_sf.parse(fields["RateLimit"].encode(), tltype="list") == [
        ("default", {"r": 45, "t": 1}),
        ("bad_credentials", {"r": 55, "t": 5}),
    ]


def test_a_refusal_carries_the_fields_and_a_whole_retry_after() -> None:
    policy = Policy("burst", "standard", rate=0.4, burst=1)
    spent = decide(0, NOW, rate=policy.rate, burst=policy.burst, cost=1)
    refused = decide(spent.tat, NOW, rate=policy.rate, burst=policy.burst, cost=1)
    assert refused.retry_after == 2.5
    assert fields_of(refused, policy) == {
        "RateLimit-Policy": '"burst";q=1;w=3',
        "RateLimit": '"burst";r=0;t=3',
        "Retry-After": "3",
    }


def test_a_fixed_window_admits_twice_its_limit_around_a_boundary_and_gcra_does_not() -> None:
    """The version that goes wrong, of docs/patterns/rate_limiting.md."""
    limit, window = 100, 60 * MICROSECONDS
    times = [NOW - NOW % window + window - 1_000] * limit + [NOW - NOW % window + window] * limit
    counters: dict[int, int] = {}

    def fixed_window(now: int) -> bool:
        counters[now // window] = counters.get(now // window, 0) + 1
        return counters[now // window] <= limit

    sequence = [(0, 1)] * limit + [(1_000, 1)] + [(0, 1)] * (limit - 1)
    admitted = [decision.allowed for _, _, decision in run(sequence, rate=limit / 60, burst=limit)]
    assert sum(map(fixed_window, times)) == 2 * limit
    assert sum(admitted) == limit


def limiter(
    redis: Redis,
    *,
    namespace: str = "orders",
    timeout: float = REDIS_TIMEOUT,
    replicas: int = 1,
    clock: ManualClock | None = None,
) -> RateLimiter:
    limits = RateLimitSettings(replicas=replicas)
    return RateLimiter(redis, lambda: limits, namespace=namespace, timeout=timeout, clock=clock or ManualClock())


def fields_of(decision: Decision, policy: Policy) -> dict[str, str]:
    fields: dict[str, str] = {}
    add_fields(fields, decision, policy)
    return fields


def count(policy: Policy, *, decision: str, backend: str) -> float:
    labels = {"policy": policy.name, "tier": policy.tier, "decision": decision, "backend": backend}
    return REGISTRY.get_sample_value("rate_limit_decisions_total", labels) or 0.0


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
