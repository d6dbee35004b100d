"""The limit of calls to a dependency: all processes share it, a call waits or is refused by its deadline, and a refusal
pauses everybody once.
"""

import asyncio
import math
from collections.abc import Callable

import pytest
from chassis.calls.quota import (
    MAX_PAUSE,
    MICROSECONDS,
    Limit,
    Quota,
    decide_turn,
    parse_policy,
    parse_remaining,
    pause_until,
    pauses,
)
from chassis.circuit_breaker.outcomes import outcome_of
from chassis.config.settings import RedisSettings
from chassis.errors import (
    BreakerOpen,
    DependencyError,
    DependencyFailed,
    DependencyPaused,
    DependencyUnavailable,
)
from chassis.jobs import RunningJob
from chassis.jobs.decisions import MAX_GRANTED_ATTEMPT, decide_failure
from chassis.pooling import create_redis
from redis.asyncio import Redis


class Clock:
    """Time passes only in `sleep`, so a test of a minute takes no time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def local(clock: Clock, rate: float | None = None, replicas: int = 1) -> Quota:
    return Quota("provider", rate=lambda: rate, replicas=lambda: replicas, clock=clock, sleep=clock.sleep)


def shared(redis: Redis, rate: float | None) -> Quota:
    return Quota("provider", redis=redis, service="payments", rate=lambda: rate)


# Turns


async def test_calls_beyond_the_burst_wait_for_their_turns_in_order() -> None:
    clock = Clock()
    quota = local(clock, rate=10)  # the caller's burst is half of the edge's: 25 calls
    started = []
    for _ in range(125):
        await quota.take(longest=60)
        started.append(clock.now - 1000)
    assert started[24] == 0
    assert started[124] == pytest.approx(10.0, abs=0.01)
    assert started == sorted(started)


async def test_a_turn_that_comes_after_the_deadline_is_refused_at_once_and_takes_nothing() -> None:
    clock = Clock()
    quota = local(clock, rate=0.4)  # a burst of one call
    await quota.take(longest=0)
    with pytest.raises(DependencyPaused) as refused:
        await quota.take(longest=1)
    assert clock.slept == []
    assert refused.value.retry_after == pytest.approx(1.5)  # then the turn comes within one second
    await quota.take(longest=3)
    assert clock.slept == [pytest.approx(2.5)]


async def test_a_call_without_time_is_not_refused_while_turns_are_free() -> None:
    await local(Clock(), rate=10).take(longest=-2.0)


async def test_without_a_limit_calls_do_not_wait() -> None:
    clock = Clock()
    quota = local(clock)
    for _ in range(1000):
        await quota.take(longest=0)
    assert clock.slept == []


async def test_replicas_share_one_limit(redis: Redis) -> None:
    one, other = shared(redis, rate=2), shared(redis, rate=2)
    granted = 0
    for quota in (one, other) * 10:
        try:
            await quota.take(longest=0)
        except DependencyPaused:
            continue
        granted += 1
    assert 5 <= granted <= 7  # half of the edge's burst, and the calls of the time that the test took


async def test_concurrent_calls_get_turns_one_interval_apart(redis: Redis) -> None:
    """The race: if two callers read the same state, two calls would start at the same time."""
    quotas = [shared(redis, rate=100) for _ in range(3)]
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def take(quota: Quota) -> float:
        await quota.take(longest=10)
        return loop.time() - began

    started = sorted(await asyncio.gather(*(take(quotas[number % 3]) for number in range(300))))
    assert started[-1] >= 0.5  # 250 in the burst, and 50 at 100 a second


# Pauses


async def test_a_refusal_that_one_replica_meets_pauses_all_of_them(redis: Redis) -> None:
    one, other = shared(redis, rate=1000), shared(redis, rate=1000)
    assert await one.pause(20) == 20
    for quota in (one, other):
        with pytest.raises(DependencyPaused) as refused:
            await quota.take(longest=3)
        assert refused.value.retry_after == pytest.approx(17, abs=0.5)


async def test_after_a_pause_calls_start_one_by_one() -> None:
    clock = Clock()
    quota = local(clock, rate=10)
    await quota.pause(5)
    started = []
    for _ in range(4):
        await quota.take(longest=60)
        started.append(round(clock.now - 1000, 3))
    assert started == [5, 5.1, 5.2, 5.3]


async def test_a_call_that_waits_when_the_refusal_arrives_is_refused_after_its_wait() -> None:
    clock = Clock()
    quota = local(clock, rate=0.4)
    await quota.take(longest=0)

    async def sleep_until_a_refusal(seconds: float) -> None:
        clock.now += seconds
        await quota.pause(30)

    quota._sleep = sleep_until_a_refusal
    with pytest.raises(DependencyPaused):
        await quota.take(longest=10)


@pytest.mark.parametrize("asked", [86_400.0, math.inf])
async def test_no_header_pauses_calls_for_longer_than_a_minute(asked: float) -> None:
    clock = Clock()
    quota = local(clock)
    assert await quota.pause(asked) == MAX_PAUSE
    clock.now += MAX_PAUSE
    await quota.take(longest=0)


async def test_each_further_refusal_doubles_the_pause_until_a_call_succeeds() -> None:
    clock = Clock()
    quota = local(clock)
    paused = []
    for _ in range(8):
        paused.append(await quota.pause(None))
        clock.now += paused[-1]
    assert paused == [1, 2, 4, 8, 16, 32, 60, 60]
    quota.note_success()
    assert await quota.pause(None) == 1


async def test_refusals_of_calls_that_were_under_way_together_are_one_pause() -> None:
    clock, counted = Clock(), pauses.labels("provider")._value
    quota, before = local(clock), counted.get()
    left = []
    for _ in range(8):
        left.append(await quota.pause(1))
        clock.now += 0.1
    assert left == [pytest.approx(1 - number / 10) for number in range(8)]
    assert counted.get() - before == 1
    clock.now += 0.2
    assert await quota.pause(1) == 2  # the first call after the pause is refused as well


async def test_a_cancelled_wait_blocks_no_later_call() -> None:
    quota = Quota("provider", rate=lambda: 20.0)
    for _ in range(50):
        await quota.take(longest=0)
    waiting = asyncio.create_task(quota.take(longest=10))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await quota.take(longest=1)


# Redis


async def test_while_redis_is_away_each_replica_paces_its_share(redis_settings: RedisSettings) -> None:
    clock = Clock()
    nowhere = create_redis(redis_settings.model_copy(update={"port": 1}), timeout=0.05)
    quota = Quota(
        "provider",
        redis=nowhere,
        service="payments",
        rate=lambda: 10.0,
        replicas=lambda: 5,
        clock=clock,
        sleep=clock.sleep,
    )
    for _ in range(5 + 20):  # a burst of 25 ÷ 5, and 10 s at 10 ÷ 5 a second
        await quota.take(longest=60)
    assert clock.now - 1000 == pytest.approx(10, abs=0.1)
    await quota.pause(30)
    with pytest.raises(DependencyPaused):
        await quota.take(longest=1)
    await nowhere.aclose()


async def test_a_value_that_is_no_number_is_dropped(redis: Redis) -> None:
    quota = shared(redis, rate=10)
    await redis.set(quota._key, "not a number")
    await quota.take(longest=0)


# Headers


@pytest.mark.parametrize(
    ("field", "limit"),
    [
        ('"default";q=50;w=5', Limit(100_000, 25)),
        ('"hour";q=1000;w=3600, "minute";q=60;w=60', Limit(3_600_000, 30)),
        ('"broken";q=0;w=5', Limit(5_000_000, 1)),
        ('"slow";q=1;w=86400', Limit(60 * MICROSECONDS, 1)),
        ('"no window";q=50', Limit(0, 25)),
        ("", None),
        ("q", None),
        ("100;w=60", None),
        ('"x";q=-1;w=5', None),
        ('"x";q=99999999999;w=5', None),
    ],
)
def test_a_policy_is_the_strictest_of_its_items(field: str, limit: Limit | None) -> None:
    assert parse_policy(field) == limit


def test_the_remaining_quota_is_the_smallest() -> None:
    assert parse_remaining('"a";r=9;t=1, "b";r=0;t=30') == (0, 30.0)
    assert parse_remaining("nonsense") is None


async def test_a_lower_limit_that_the_dependency_announces_is_obeyed() -> None:
    clock = Clock()
    quota = local(clock, rate=1000)
    quota.note({"RateLimit-Policy": '"edge";q=10;w=5'})
    for _ in range(5 + 10):
        await quota.take(longest=60)
    assert clock.now - 1000 == pytest.approx(5)
    quota.note({"RateLimit-Policy": '"edge";q=9000;w=1'})  # our own limit holds
    assert quota._limit() == Limit.of(1000)


async def test_calls_wait_when_the_dependency_says_that_nothing_is_left() -> None:
    """Another caller has used up the quota that both share."""
    clock = Clock()
    quota = local(clock, rate=10)
    quota.note({"RateLimit-Policy": '"edge";q=50;w=5', "RateLimit": '"edge";r=0;t=5'})
    await quota.take(longest=60)
    assert clock.slept == [pytest.approx(0.1)]
    alone = local(clock, rate=10)
    alone.note({"RateLimit": '"edge";r=0;t=5'})  # without a policy there is only the reset
    with pytest.raises(DependencyPaused):
        await alone.take(longest=1)


# A refusal is no attempt and no failure


REFUSALS: list[Callable[[], DependencyError]] = [
    lambda: DependencyUnavailable("provider", "answered 429", status=429),
    lambda: DependencyFailed("provider", "answered 503", status=503, retry_after=1.0),
    lambda: DependencyPaused("provider", retry_after=1.0),
]
FAILURES: list[Callable[[], DependencyError]] = [
    lambda: DependencyFailed("provider", "answered 503", status=503),
    lambda: DependencyFailed("provider", "answered 500", status=500, retry_after=1.0),
    lambda: DependencyUnavailable("provider", "no connection"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_neither_an_attempt_nor_a_failure(refusal: Callable[[], DependencyError]) -> None:
    job = RunningJob(id=1, name="pay", attempt=50, max_attempts=50)
    decision = decide_failure(job, refusal(), lambda: 0.0)
    assert (decision.outcome, decision.pause) == ("postponed", 1.0)
    assert outcome_of(refusal()) == "ignored"


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_an_attempt(failure: Callable[[], DependencyError]) -> None:
    job = RunningJob(id=1, name="pay", attempt=50, max_attempts=50)
    assert decide_failure(job, failure(), lambda: 0.0).outcome == "dead"
    assert outcome_of(failure()) == "failure"


def test_an_open_breaker_is_no_refusal_of_the_dependency() -> None:
    job = RunningJob(id=1, name="pay", attempt=1, max_attempts=50)
    assert decide_failure(job, BreakerOpen("provider", retry_after=5), lambda: 0.0).outcome == "retried"


def test_a_job_that_is_refused_hundreds_of_times_uses_up_its_attempts_after_all() -> None:
    """One job whose calls alone are refused would pause the queue again and again."""
    job = RunningJob(id=1, name="pay", attempt=MAX_GRANTED_ATTEMPT, max_attempts=MAX_GRANTED_ATTEMPT + 50)
    assert decide_failure(job, REFUSALS[0](), lambda: 0.0).outcome == "retried"


def test_a_clock_that_steps_back_stops_no_call_for_longer_than_a_pause() -> None:
    limit = Limit.of(10)
    now = 5_000_000 * MICROSECONDS
    turn = decide_turn(
        now * 2, now, interval=limit.interval, burst=limit.burst, used=0, longest=int(2 * MAX_PAUSE * MICROSECONDS)
    )
    assert turn.granted
    assert turn.wait <= (MAX_PAUSE + 1) * MICROSECONDS
    assert pause_until(0, now, interval=limit.interval, burst=limit.burst) > now
