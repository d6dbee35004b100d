"""The burst around a boundary: what each algorithm admits within two seconds to a caller who knows when windows end."""

import asyncio
import time
from dataclasses import dataclass, field

from chassis.config.settings import RateLimitSettings, RedisSettings
from chassis.pooling import create_redis
from chassis.rate_limiting import MICROSECONDS, Decision, Policy, RateLimiter

from experiments.lab.results import Results, Row
from experiments.rate_limiting.algorithms import Algorithm, FixedWindow, SlidingCounter, SlidingLog, TokenBucket

LIMIT, WINDOW = 30, 6.0
"""Calls, in so many seconds."""
BEFORE, AFTER = 45, 45
"""Calls in the second before the boundary and in the one after it."""

WITHIN, BOUND = "admitted within 2 s", "at most"


@dataclass(kw_only=True)
class Gcra:
    """The chassis' limiter as one of the algorithms; `moments` are the admissions, in microseconds by Redis' clock."""

    name: str
    limiter: RateLimiter
    policy: Policy
    keeps: str = "1 number"
    moments: list[int] = field(default_factory=list)

    async def allows(self, key: str) -> bool:
        decision = await self.limiter.check(key, self.policy)
        if decision.allowed:
            self.moments.append(_decided_at(decision))
        return decision.allowed

    @property
    def span(self) -> float:
        """Seconds from the first admission to the last."""
        return (self.moments[-1] - self.moments[0]) / MICROSECONDS

    @property
    def bound(self) -> int:
        """What it may admit in that span: burst + ⌊Δ ÷ T⌋."""
        return self.policy.burst + int(self.span * self.policy.rate)


def _decided_at(decision: Decision) -> int:
    return decision.tat - round(decision.reset_after * MICROSECONDS)


async def boundary_burst(settings: RedisSettings, results: Results) -> None:
    redis = create_redis(settings, timeout=5)
    limits = RateLimitSettings()
    limiter = RateLimiter(redis, lambda: limits, service="lab")
    whole = Gcra(name="GCRA", limiter=limiter, policy=Policy("whole", "standard", LIMIT / WINDOW, LIMIT))
    half = Gcra(
        name="GCRA by halves",
        limiter=limiter,
        policy=Policy("half", "standard", LIMIT / WINDOW / 2, LIMIT // 2),
    )
    others = [
        made(redis, limit=LIMIT, window=WINDOW) for made in (FixedWindow, SlidingCounter, SlidingLog, TokenBucket)
    ]
    fixed = others[0]
    algorithms: list[Algorithm] = [*others, whole, half]
    boundary = (int(time.time() / WINDOW) + 1) * WINDOW
    if boundary - time.time() < 1.5:  # noqa: PLR2004
        boundary += WINDOW
    admitted = await asyncio.gather(*(_attack(one, boundary) for one in algorithms))
    await redis.aclose()
    rows: list[Row] = [
        {"algorithm": one.name, "keeps of a key": one.keeps, WITHIN: count}
        for one, count in zip(algorithms, admitted, strict=True)
    ]
    results.tables[
        f"Boundary burst: {BEFORE} calls in the second before a window ends, {AFTER} in the one after; "
        f"limit {LIMIT} in {WINDOW:g} s"
    ] = rows
    found = dict(zip((one.name for one in algorithms), admitted, strict=True))
    results.series["boundary"] = {"limit": LIMIT, "window": WINDOW, "admitted": found}
    results.expect(f"fixed window: 2L = 2 × {LIMIT}", 2 * LIMIT, found[fixed.name])
    results.expect("sliding log: L", LIMIT, found["sliding log"])
    for gcra in (whole, half):
        results.expect(
            f"{gcra.name}: burst + ⌊Δ ÷ T⌋ = {gcra.policy.burst} + ⌊{gcra.span:.2f} s × {gcra.policy.rate:.2f}⌋",
            gcra.bound,
            found[gcra.name],
        )
    results.check(
        f"a fixed window admits {found[fixed.name]} around a boundary, its limit twice",
        # Exactly twice, unless this machine was too busy to make as many calls on one side.
        holds=found[fixed.name] > 1.5 * LIMIT,
    )
    results.check(
        f"GCRA admits {found[whole.name]} and {found[half.name]}, never more than burst + ⌊Δ ÷ T⌋",
        holds=all(gcra.policy.burst <= found[gcra.name] <= gcra.bound for gcra in (whole, half)),
    )
    results.check(f"GCRA by halves keeps to the limit of {LIMIT} in every window", holds=found[half.name] <= LIMIT)


async def _attack(algorithm: Algorithm, boundary: float) -> int:
    """One call after the other, by a caller who is in a hurry on both sides of the boundary."""
    admitted = 0
    for begins, calls in ((boundary - 1, BEFORE), (boundary, AFTER)):
        for number in range(calls):
            moment = begins + number / calls
            if moment > time.time():
                await asyncio.sleep(moment - time.time())
            admitted += await algorithm.allows("attacker")
    return admitted
