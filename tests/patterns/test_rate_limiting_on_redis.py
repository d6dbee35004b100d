"""The limiter on a real Valkey: its script, its callers at once, in one process and in three, and when it fails."""

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from arrivals import Arrival, decided, unsteady_arrivals
from backends import FreshDatabase
from chassis.config.settings import RateLimitSettings, RedisSettings
from chassis.logging import canonical_line
from chassis.pooling import create_redis, create_shared_redis
from chassis.rate_limiting import MICROSECONDS, Decision, Policy, RateLimiter
from chassis.rate_limiting.gcra import describe, microseconds_per_unit
from holdfast_local.valkey import EmbeddedValkey, temporary_valkey
from hypothesis import HealthCheck, given, settings
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from redis.asyncio import Redis
from service_process import CALLER, OrdersInstallation

REDIS_TIMEOUT = 0.05


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=unsteady_arrivals)
async def test_the_script_decides_as_the_function_does(redis: Redis, sequence: list[Arrival]) -> None:
    """To the microsecond, also while the clock steps back and policies change."""
    script = redis.register_script(limiter(redis)._script)
    pipeline = redis.pipeline()
    pipeline.delete("agreement")
    for one in sequence:
        await script(
            keys=["agreement"], args=[microseconds_per_unit(one.rate), one.burst, one.cost, one.now], client=pipeline
        )
    _, *answers = await pipeline.execute()
    described = [
        describe(allowed == 1, tat, now, interval=microseconds_per_unit(one.rate), burst=one.burst, cost=one.cost)
        for (allowed, tat, now), one in zip(answers, sequence, strict=True)
    ]
    assert described == [decision for _, decision in decided(sequence)]


async def test_redis_clock_decides_and_not_this_process_s(redis: Redis) -> None:
    before = as_microseconds(await redis.time())
    decision = await limiter(redis, clock=ManualClock()).check("a", Policy("clock", "standard", rate=1.0, burst=5))
    after = as_microseconds(await redis.time())
    assert before <= decision.tat - MICROSECONDS <= after


async def test_callers_at_once_are_admitted_as_if_they_had_come_one_after_the_other(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    policy = Policy("exact", "standard", rate=200.0, burst=20)
    other = create_redis(redis_settings, timeout=10)
    limiters = [limiter(redis), limiter(other)]
    decisions: list[Decision] = []

    async def keep_calling(n: int) -> None:
        for _ in range(20):
            decisions.append(await limiters[n % 2].check("a", policy))  # noqa: PERF401  all append to one list

    await asyncio.gather(*(keep_calling(n) for n in range(20)))
    await other.aclose()
    times = sorted(decision.tat - round(decision.reset_after * MICROSECONDS) for decision in decisions)
    one_by_one = decided([Arrival(now, 0, policy.rate, policy.burst, 1) for now in times])
    assert sorted(decision.tat for decision in decisions) == [decision.tat for _, decision in one_by_one]
    assert policy.burst < sum(decision.allowed for decision in decisions) < len(decisions)


async def test_200_callers_at_once_of_three_processes_are_admitted_exactly_the_burst(
    tmp_path: Path, fresh_database: FreshDatabase, redis: Redis, redis_settings: RedisSettings
) -> None:
    """Of real APIs. What comes back meanwhile, a thousandth of a unit a second, is less than one for 16 minutes."""
    database = await fresh_database("orders")
    started = time.monotonic()
    async with AsyncExitStack() as stack, httpx.AsyncClient(limits=httpx.Limits(), timeout=30) as client:
        replicas = []
        for n in range(3):
            replica = OrdersInstallation.create(tmp_path / str(n), database, redis_settings)
            replica.set("rate_limit__rate_per_second", "0.001")
            replica.set("rate_limit__burst", "50")
            replica.set("redis__timeout", "5")
            replicas.append(replica)
        await asyncio.gather(*(stack.enter_async_context(replica.running("api")) for replica in replicas))
        asked = [client.get(f"{replicas[n % 3].url}/v1/products/rope", headers=CALLER) for n in range(200)]
        answers = await asyncio.gather(*asked)
        counted = Counter[tuple[str, str]]()
        for replica in replicas:
            counted += decisions_in((await client.get(f"{replica.management_url}/metrics")).text)
    assert Counter(answer.status_code for answer in answers) == {200: 50, 429: 150}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers if answer.status_code == 429)
    assert counted == {("allowed", "redis"): 50, ("refused", "redis"): 150}
    assert (time.monotonic() - started) * 0.001 < 1


async def test_callers_between_a_get_and_its_set_all_pass(redis: Redis) -> None:
    """The version that goes wrong, of docs/patterns/rate_limiting.md."""
    limit, callers = 10, 30
    have_all_read = asyncio.Barrier(callers)

    async def counts_and_passes() -> bool:
        count = int(await redis.get("counter") or 0)
        await have_all_read.wait()  # nothing keeps this from happening by itself
        await redis.set("counter", count + 1)
        return count < limit

    assert sum(await asyncio.gather(*(counts_and_passes() for _ in range(callers)))) == callers
    assert await redis.get("counter") == b"1"

    policy = Policy("atomic", "standard", rate=0.001, burst=limit)
    limits = limiter(redis)
    decisions = await asyncio.gather(*(limits.check("a", policy) for _ in range(callers)))
    assert sum(decision.allowed for decision in decisions) == limit


async def test_principals_policies_tiers_and_services_have_limits_of_their_own(redis: Redis) -> None:
    policy = Policy("own", "standard", rate=0.001, burst=1)
    orders, payments = limiter(redis), limiter(redis, service="payments")
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
    [key] = await redis.keys("test:rate_limit:*")
    assert 10 <= await redis.ttl(key) <= 11


async def test_a_state_that_is_no_number_counts_as_none_and_is_no_failure_of_redis(redis: Redis) -> None:
    policy = Policy("unreadable", "standard", rate=0.001, burst=5)
    await redis.set("test:rate_limit:orders:unreadable:standard:a", "from another release")
    assert [(await limiter(redis).check("a", policy)).remaining for _ in range(2)] == [4, 3]
    assert count(policy, decision="allowed", backend="redis") == 2


async def test_a_flushed_server_is_given_the_script_again(redis: Redis) -> None:
    limits = limiter(redis)
    policy = Policy("flushed", "standard", rate=0.001, burst=5)
    await limits.check("a", policy)
    await redis.script_flush()
    assert (await limits.check("a", policy)).remaining == 3
    assert count(policy, decision="allowed", backend="local") == 0


@pytest.mark.parametrize("failure", ["gone", "hanging"])
async def test_without_redis_this_process_admits_its_share_and_waits_for_no_answer(failure: str) -> None:
    policy = Policy(failure, "standard", rate=0.001, burst=50)
    async with failing_redis(failure) as redis:
        assert await allowed_of(limiter(redis, replicas=5), policy, times=50) == 10
    assert count(policy, decision="allowed", backend="local") == 10
    assert count(policy, decision="refused", backend="local") == 40


async def test_a_server_that_stops_is_done_without_until_it_goes_on() -> None:
    clock, policy = ManualClock(), Policy("stopped", "standard", rate=0.001, burst=50)
    async with temporary_valkey() as server, failing_redis(server, within=0.5) as redis:
        limits = limiter(redis, replicas=5, clock=clock)
        assert server.pid
        for round_trip in range(1, 3):
            await allowed_of(limits, policy, times=5)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                await allowed_of(limits, policy, times=30)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert count(policy, decision="allowed", backend="local") == 10
            clock.seconds += 1.0
            # No answer to what was given up is taken for the answer to this.
            assert (await limits.check(f"other-{round_trip}", policy)).remaining == 49
    assert count(policy, decision="allowed", backend="redis") == 12


async def test_a_hanging_redis_costs_one_request_per_pause_its_time_out() -> None:
    clock = ManualClock()
    policy = Policy("pause", "standard", rate=0.001, burst=100)
    async with failing_redis("hanging") as redis:
        limits = limiter(redis, clock=clock)
        await limits.check("a", policy)
        assert [limits._may_try_redis() for _ in range(50)] == [False] * 50
        clock.seconds += 1.0
        asked = [limits._may_try_redis() for _ in range(10)]
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


async def allowed_of(limits: RateLimiter, policy: Policy, *, times: int) -> int:
    """How many of so many callers at once were allowed. A Redis that hangs answers none of them before it ends."""
    decisions = await asyncio.gather(*(limits.check("a", policy) for _ in range(times)))
    return sum(decision.allowed for decision in decisions)


def as_microseconds(time_of_redis: tuple[int, int]) -> int:
    seconds, microseconds = time_of_redis
    return seconds * MICROSECONDS + microseconds


def decisions_in(page: str) -> Counter[tuple[str, str]]:
    """Decision and back end → how many, from a page of metrics."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return Counter(
        {
            (one.labels["decision"], one.labels["backend"]): int(one.value)
            for one in samples
            if one.name == "rate_limit_decisions_total" and one.labels["policy"] == "default"
        }
    )


def limiter(
    redis: Redis,
    *,
    service: str = "orders",
    replicas: int = 1,
    clock: ManualClock | None = None,
) -> RateLimiter:
    limits = RateLimitSettings(replicas=replicas)
    return RateLimiter(redis, lambda: limits, service=service, clock=clock or ManualClock())


def count(policy: Policy, *, decision: str, backend: str) -> float:
    labels = {"policy": policy.name, "tier": policy.tier, "decision": decision, "backend": backend}
    return REGISTRY.get_sample_value("rate_limit_decisions_total", labels) or 0.0


@asynccontextmanager
async def failing_redis(failure: str | EmbeddedValkey, *, within: float = REDIS_TIMEOUT) -> AsyncIterator[Redis]:
    """A client of a closed port ("gone"), of a listener that accepts and never answers ("hanging"), or of a server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if failure == "hanging":
            listener.listen()
        port, password = listener.getsockname()[1], None
        if isinstance(failure, EmbeddedValkey):
            port, password = failure.port, SecretStr(urlsplit(failure.dsn).password or "")
        redis = create_shared_redis(RedisSettings(port=port, password=password), timeout=within)
        yield redis
        await redis.aclose()
