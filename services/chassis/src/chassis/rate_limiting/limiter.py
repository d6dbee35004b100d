"""The limiter: all processes decide together in Redis. While Redis fails, each process decides alone."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import sha1
from importlib import resources
from typing import Any, Literal

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from chassis.config.settings import RateLimitSettings
from chassis.fast.prometheus_labels import remembered
from chassis.logging import get_logger, put_on_canonical_line
from chassis.pooling import names_of
from chassis.rate_limiting.gcra import MICROSECONDS, Decision, decide, describe, microseconds_per_unit
from chassis.rate_limiting.policies import Policy

log = get_logger(__name__)

decisions = Counter(
    "rate_limit_decisions",
    "Decisions, by outcome (allowed, refused; would_refuse in a dark launch) and by backend (redis, local).",
    ["policy", "tier", "decision", "backend"],
)
_decisions = remembered(decisions)

type Backend = Literal["redis", "local"]


class RateLimiter:
    """Decides for all processes that share `redis`. The keys contain the name of the `service`.

    The time-out of `redis` bounds the time that a decision takes. When Redis fails, this process decides alone, with
    its share of the limit. After `redis_pause` (seconds) one request tries Redis again. `current` returns the settings
    that are valid now.
    """

    def __init__(
        self,
        redis: Redis,
        current: Callable[[], RateLimitSettings],
        *,
        service: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute: Callable[..., Awaitable[Any]] = redis.execute_command
        self._script = resources.files("chassis.rate_limiting").joinpath("gcra.lua").read_text()
        self._sha = sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self.current = current
        self._names = names_of(redis)
        self.service = service
        self._clock = clock
        self._local = LocalLimiter(max_keys=current().local_keys, clock=clock)
        self._try_redis_at: float | None = None  # this attribute is None while Redis answers

    async def check(self, key: str, policy: Policy, *, cost: int = 1) -> Decision:
        """Take `cost` units from the burst of `key` under `policy`, if the burst still has that many units.

        A failure of Redis raises no error, because this process then decides alone. A key is a principal's id, or a
        kind and a name, such as `ip:192.0.2.1`. A `cost` above the burst counts as the whole burst, because a
        request with a higher cost could never be allowed. Under a policy with `dark_launch` every request is allowed.
        """
        decision, backend = await self._decide(f"{policy.name}:{policy.tier}:{key}", policy, cost)
        outcome = "allowed" if decision.allowed else "refused"
        if policy.dark_launch and not decision.allowed:
            outcome = "would_refuse"
            put_on_canonical_line(rate_limit_would_refuse=policy.name)
            decision = decision._replace(allowed=True, retry_after=0.0)
        _decisions(policy.name, policy.tier, outcome, backend).inc()
        return decision

    async def _decide(self, key: str, policy: Policy, cost: int) -> tuple[Decision, Backend]:
        if self._may_try_redis():
            try:
                decision = await self._decide_in_redis(key, policy, cost)
            except (RedisError, TimeoutError) as error:
                self._redis_failed(error)
            else:
                self._redis_answered()
                return decision, "redis"
        return self._local.check(key, policy.share(self.current().replicas), cost=cost), "local"

    async def _decide_in_redis(self, key: str, policy: Policy, cost: int) -> Decision:
        interval, cost = microseconds_per_unit(policy.rate), min(cost, policy.burst)
        arguments = self._names.rate_limit(self.service, key), interval, policy.burst, cost
        try:
            allowed, tat, now = await self._execute("EVALSHA", self._sha, 1, *arguments)
        except NoScriptError:  # Redis has restarted, or has never run the script
            allowed, tat, now = await self._execute("EVAL", self._script, 1, *arguments)
        return describe(allowed == 1, tat, now, interval=interval, burst=policy.burst, cost=cost)

    def _may_try_redis(self) -> bool:
        if self._try_redis_at is None:
            return True
        if self._clock() < self._try_redis_at:
            return False
        # This request tries Redis. The process decides all other requests locally until Redis has answered.
        self._try_redis_at = self._clock() + self.current().redis_pause
        return True

    def _redis_failed(self, error: Exception) -> None:
        if self._try_redis_at is None:
            log.warning("rate_limit_redis_lost", error=repr(error))
        self._try_redis_at = self._clock() + self.current().redis_pause

    def _redis_answered(self) -> None:
        if self._try_redis_at is not None:
            log.info("rate_limit_redis_restored")
        self._try_redis_at = None


class LocalLimiter:
    """GCRA in this process's memory. Beyond `max_keys` the limiter drops the least recently used key, whose caller then
    has a full burst again.
    """

    def __init__(self, *, max_keys: int, clock: Callable[[], float]) -> None:
        self._tats: OrderedDict[str, int] = OrderedDict()
        self._max_keys = max_keys
        self._clock = clock

    def check(self, key: str, policy: Policy, *, cost: int) -> Decision:
        """Call `decide` with the stored TAT (theoretical arrival time) of `key`, and store the new TAT. A `cost` above
        the burst counts as the whole burst.
        """
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
