"""While Redis is away, all processes together admit the limit: each has its share of the burst and of the rate."""

import pytest
from chassis.config.settings import RateLimitSettings
from chassis.rate_limiting import Policy, RateLimiter
from test_rate_limiting_on_redis import ManualClock, count, failing_redis


@pytest.mark.parametrize("replicas", [1, 2, 5])
async def test_without_redis_processes_together_admit_the_burst_and_the_rate(replicas: int) -> None:
    clock, limits = ManualClock(), RateLimitSettings(replicas=replicas)
    policy = Policy(f"shares-{replicas}", "standard", rate=10.0, burst=10)
    seconds, looks_per_second = 20, 50
    async with failing_redis("gone") as redis:
        processes = [RateLimiter(redis, lambda: limits, service="orders", clock=clock) for _ in range(replicas)]
        for _ in range(seconds * looks_per_second):
            for process in processes:
                await process.check("a", policy)
            clock.seconds += 1 / looks_per_second
    admitted = count(policy, decision="allowed", backend="local")
    assert admitted + count(policy, decision="refused", backend="local") == replicas * seconds * looks_per_second
    assert policy.burst + policy.rate * seconds - replicas <= admitted <= policy.burst + policy.rate * seconds


async def test_the_number_of_processes_is_the_one_that_is_valid_now() -> None:
    clock, current = ManualClock(), RateLimitSettings(replicas=1)
    policy = Policy("shares-live", "standard", rate=10.0, burst=10)
    async with failing_redis("gone") as redis:
        process = RateLimiter(redis, lambda: current, service="orders", clock=clock)
        assert sum([(await process.check("before", policy)).allowed for _ in range(20)]) == 10
        current = RateLimitSettings(replicas=5)
        assert sum([(await process.check("after", policy)).allowed for _ in range(20)]) == 2
