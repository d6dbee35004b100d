"""Rate limiting: GCRA, decided in one Redis call on Redis' clock, and without Redis by a local share of the limit.

GCRA (generic cell rate algorithm) keeps one number per principal, the theoretical arrival time (TAT): when the
principal will have its whole burst back. In any span Δ it admits at most burst + ⌊rate × Δ⌋ units, while a fixed
window admits twice its limit around a boundary. Times are integers in microseconds, so that `decide` and
`rate_limiting.lua` agree exactly.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha1
from importlib import resources
from typing import Any, Literal, NamedTuple

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from chassis.config.settings import LimitSettings, RateLimitSettings
from chassis.logging import get_logger, put_on_canonical_line
from chassis.pooling import names_of

log = get_logger(__name__)

decisions = Counter(
    "rate_limit_decisions",
    "Decisions, by outcome (allowed, refused; would_refuse in a dark launch) and by who decided (redis, local).",
    ["policy", "tier", "decision", "backend"],
)

MICROSECONDS = 1_000_000

type Backend = Literal["redis", "local"]


class Decision(NamedTuple):
    """Whether the request may run, and what the caller should know.

    `tat` is in microseconds of the clock that decided. `remaining` is what may be spent now, in units of cost.
    `retry_after` (0 when allowed) and `reset_after` (until the whole burst is back) are in seconds.
    """

    allowed: bool
    tat: int
    remaining: int
    retry_after: float
    reset_after: float


def decide(tat: int, now: int, *, rate: float, burst: int, cost: int) -> Decision:
    """Admit `cost` units (1 to `burst`) iff the burst, refilled at `rate` units a second, still holds them.

    `tat` is what the principal's last decision left, 0 for a new one; `now` and `tat` in microseconds.
    """
    interval = _interval(rate)
    capacity = burst * interval
    # Further ahead than a spent burst only if the clock stepped back or the policy shrank: forgive the excess.
    tat = min(max(tat, now), now + capacity)
    allowed = tat + cost * interval - now <= capacity
    if allowed:
        tat += cost * interval
    return _describe(allowed, tat, now, interval=interval, burst=burst, cost=cost)


@lru_cache(maxsize=256)  # rates are settings: few
def _interval(rate: float) -> int:
    """Microseconds in which one unit comes back, rounded up so that the rate is never exceeded."""
    numerator, denominator = rate.as_integer_ratio()
    return -(-MICROSECONDS * denominator // numerator)


def _describe(allowed: bool, tat: int, now: int, *, interval: int, burst: int, cost: int) -> Decision:  # noqa: FBT001
    free = burst * interval - (tat - now)
    return Decision(
        allowed=allowed,
        tat=tat,
        remaining=free // interval,
        retry_after=0.0 if allowed else (cost * interval - free) / MICROSECONDS,
        reset_after=(tat - now) / MICROSECONDS,
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """A limit by name, for one tier: `rate` units a second, and `burst` units at once for who has rested.

    The name goes into a header between quotes: lower-case letters, digits, hyphens and underscores. In its
    `dark_launch` a policy is decided and counted, and nobody is refused or told of it.
    """

    name: str
    tier: str
    rate: float
    burst: int
    dark_launch: bool = False

    @classmethod
    def of(cls, name: str, limit: LimitSettings) -> "Policy":
        """A limit of the settings that is the same for every tier."""
        return cls(name, "standard", limit.rate_per_second, limit.burst, limit.dark_launch)

    @property
    def window(self) -> int:
        """Seconds, rounded up, in which a spent burst comes back."""
        return math.ceil(self.burst / self.rate)

    def share(self, replicas: int) -> "Policy":
        """What one of `replicas` processes may admit by itself; at least one unit at once."""
        return replace(self, rate=self.rate / replicas, burst=max(1, self.burst // replicas))


def default_policy(settings: RateLimitSettings, *, tier: str) -> Policy:
    """The limit of an authenticated principal, times the factor of its `tier`."""
    factor = settings.tiers.get(tier, 1.0)
    return _default_policy(tier, settings.rate_per_second * factor, settings.burst * factor, settings.dark_launch)


@lru_cache(maxsize=256)  # tiers are few
def _default_policy(tier: str, rate: float, burst: float, dark_launch: bool) -> Policy:  # noqa: FBT001
    return Policy("default", tier, rate, max(1, round(burst)), dark_launch)


def add_fields(fields: MutableMapping[str, str], decision: Decision, policy: Policy) -> None:
    """Say in an answer's `fields` what was decided: after what earlier policies said, each item with its policy's name.

    RateLimit-Policy and RateLimit always, Retry-After on a refusal; times in whole seconds. As in
    https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/: q quota, w window, r remaining, t until the
    quota is whole.
    """
    items = {
        "RateLimit-Policy": f'"{policy.name}";q={policy.burst};w={policy.window}',
        "RateLimit": f'"{policy.name}";r={decision.remaining};t={math.ceil(decision.reset_after)}',
    }
    for name, item in items.items():
        fields[name] = f"{fields[name]}, {item}" if name in fields else item
    if not decision.allowed:
        fields["Retry-After"] = str(math.ceil(decision.retry_after))


class RateLimiter:
    """Decides for all processes that share `redis`; keys carry `namespace`, the service's name.

    The time-out of `redis` bounds what it may cost a request. When it fails, this process decides alone, with its share
    of the limit, and asks Redis again after `redis_pause`, with one request at a time. `current` returns the settings
    that are valid now.
    """

    def __init__(
        self,
        redis: Redis,
        current: Callable[[], RateLimitSettings],
        *,
        namespace: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute: Callable[..., Awaitable[Any]] = redis.execute_command
        self._script = resources.files("chassis.rate_limiting").joinpath("rate_limiting.lua").read_text()
        self._sha = sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self.current = current
        self._names = names_of(redis)
        self._namespace = namespace
        self._clock = clock
        self._local = LocalLimiter(max_keys=current().local_keys, clock=clock)
        self._ask_redis_again_at: float | None = None  # None: Redis answers

    async def check(self, key: str, policy: Policy, *, cost: int = 1) -> Decision:
        """Take `cost` units from what `key` has under `policy`, if it has them; never raises for Redis.

        A key is a principal's id, or a kind and a name, such as `ip:192.0.2.1`. A `cost` above the burst counts as the
        whole burst, or it never passed. A policy in its dark launch allows everything.
        """
        decision, backend = await self._decide(f"{policy.name}:{policy.tier}:{key}", policy, cost)
        outcome = "allowed" if decision.allowed else "refused"
        if policy.dark_launch and not decision.allowed:
            outcome = "would_refuse"
            put_on_canonical_line(rate_limit_would_refuse=policy.name)
            decision = decision._replace(allowed=True, retry_after=0.0)
        decisions.labels(policy.name, policy.tier, outcome, backend).inc()
        return decision

    async def _decide(self, key: str, policy: Policy, cost: int) -> tuple[Decision, Backend]:
        if self._may_ask_redis():
            try:
                decision = await self._ask_redis(key, policy, cost)
            except (RedisError, TimeoutError) as error:
                self._redis_failed(error)
            else:
                self._redis_answered()
                return decision, "redis"
        return self._local.check(key, policy.share(self.current().replicas), cost=cost), "local"

    async def _ask_redis(self, key: str, policy: Policy, cost: int) -> Decision:
        interval, cost = _interval(policy.rate), min(cost, policy.burst)
        asked = self._names.rate_limit(self._namespace, key), interval, policy.burst, cost
        try:
            allowed, tat, now = await self._execute("EVALSHA", self._sha, 1, *asked)
        except NoScriptError:  # Redis is new, or has restarted
            allowed, tat, now = await self._execute("EVAL", self._script, 1, *asked)
        return _describe(allowed == 1, tat, now, interval=interval, burst=policy.burst, cost=cost)

    def _may_ask_redis(self) -> bool:
        if self._ask_redis_again_at is None:
            return True
        if self._clock() < self._ask_redis_again_at:
            return False
        # This request tries; the others go on without Redis until it is back.
        self._ask_redis_again_at = self._clock() + self.current().redis_pause
        return True

    def _redis_failed(self, error: Exception) -> None:
        if self._ask_redis_again_at is None:
            log.warning("rate_limit_redis_lost", error=repr(error))
        self._ask_redis_again_at = self._clock() + self.current().redis_pause

    def _redis_answered(self) -> None:
        if self._ask_redis_again_at is not None:
            log.info("rate_limit_redis_restored")
        self._ask_redis_again_at = None


class LocalLimiter:
    """GCRA in this process's memory. Beyond `max_keys` it forgets who has been away longest: a fresh burst."""

    def __init__(self, *, max_keys: int, clock: Callable[[], float]) -> None:
        self._tats: OrderedDict[str, int] = OrderedDict()
        self._max_keys = max_keys
        self._clock = clock

    def check(self, key: str, policy: Policy, *, cost: int) -> Decision:
        """Decide as `decide` does; a `cost` above the burst counts as the whole burst."""
        decision = decide(
            self._tats.get(key, 0),
            int(self._clock() * MICROSECONDS),
            rate=policy.rate,
            burst=policy.burst,
            cost=min(cost, policy.burst),
        )
        self._tats[key] = decision.tat
        self._tats.move_to_end(key)
        if len(self._tats) > self._max_keys:
            self._tats.popitem(last=False)
        return decision
