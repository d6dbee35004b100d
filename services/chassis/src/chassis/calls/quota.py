"""The limit of the calls to one dependency, shared by all processes of a service.

The algorithm is GCRA, as in `rate_limiting`. But a call that comes too early is not refused at once: it reserves the
next turn and waits, if the turn comes before the call's deadline. A turn is the time at which a call may start. GCRA
stores one number, the theoretical arrival time (TAT), at which the whole burst may start again. If the dependency
refuses a call (429, or 503 with Retry-After), all processes pause their calls. A pause only increases the TAT, so Redis
needs no second number.

While Redis fails, each process paces its share of the calls alone, and knows only the refusals of its own calls.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha1
from importlib import resources
from typing import Any, NamedTuple

from prometheus_client import Counter, Histogram
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from chassis.config.settings import BURST_SECONDS
from chassis.errors import DependencyPaused
from chassis.logging import add_to_canonical_line, get_logger
from chassis.pooling import names_of

log = get_logger(__name__)

decisions = Counter(
    "call_limit_decisions",
    "Calls that asked for a turn, by decision (sent, waited, refused) and by backend (redis, local).",
    ["dependency", "decision", "backend"],
)
wait_seconds = Histogram(
    "call_limit_wait_seconds",
    "Time that a call waited for its turn.",
    ["dependency"],
    buckets=(0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
pauses = Counter("dependency_pauses", "Refusals that paused all calls to a dependency.", ["dependency"])

MICROSECONDS = 1_000_000
MAX_PAUSE = 60.0
"""The longest pause in seconds, and the longest time between two calls, whatever the dependency's headers say. After a
minute one call tests whether the dependency still refuses."""
MAX_DOUBLINGS = 6  # 2⁶ seconds are more than MAX_PAUSE
_SHORTEST_PAUSE = 1.0
# In seconds. A Retry-After is a whole number of seconds, so a new pause that ends at most this much later than the
# present pause counts as the same pause.
_ROUNDING = 1.0
_EARLY = 0.01  # `asyncio.sleep` may end up to this many seconds early
_REDIS_PAUSE = 1.0  # seconds without a call to Redis after a call to Redis failed
_NOTHING_REMEMBERED = -1
_PARAMETER = re.compile(r";[ \t]?([qwrt])=(\d{1,9})\b")
"""A parameter of an item in the fields RateLimit and RateLimit-Policy, for example `;q=100`."""


class Turn(NamedTuple):
    """Whether the call may start in `wait` microseconds, and the theoretical arrival time (TAT) after the decision."""

    granted: bool
    wait: int
    tat: int


def decide_turn(tat: int, now: int, *, interval: int, burst: int, used: int, longest: int) -> Turn:
    """Reserve the next turn, unless the call would wait for it longer than `longest`. All times are in microseconds.

    `used` is the number of calls of the burst that are used up, according to the dependency's last answer.
    """
    capacity = burst * interval
    tat = min(max(tat, now + used * interval), now + capacity + int(MAX_PAUSE * MICROSECONDS))
    wait = max(0, tat - capacity + interval - now)
    granted = wait <= longest
    return Turn(granted, wait, tat + interval if granted else tat)


def pause_until(tat: int, until: int, *, interval: int, burst: int) -> int:
    """The theoretical arrival time (TAT) with which the next turn comes at `until`, and each later turn one `interval`
    later. No burst may start right after a pause, because a burst would cause the next refusal.
    """
    return max(tat, until + (burst - 1) * interval)


class Limit(NamedTuple):
    """`interval` is the microseconds between two calls (0: no limit), `burst` the calls that may start at once."""

    interval: int
    burst: int

    @classmethod
    def of(cls, rate: float | None) -> "Limit":
        """The limit of a caller whose dependency admits `rate` calls per second: this rate, and half of the
        dependency's burst, because calls may arrive closer together than they were sent.
        """
        if not rate:
            return cls(0, 1)
        return cls(-int(-MICROSECONDS // rate), max(1, int(rate * BURST_SECONDS / 2)))

    def within(self, other: "Limit") -> "Limit":
        burst = other.burst if self.interval == 0 else min(self.burst, other.burst)
        return Limit(max(self.interval, other.interval), burst)

    def share(self, replicas: int) -> "Limit":
        return Limit(self.interval * replicas, max(1, self.burst // replicas))


def parse_policy(field: str) -> Limit | None:
    """The strictest limit in a RateLimit-Policy field: the lowest rate q ÷ w, and half of the smallest quota q."""
    found = [(int(q), int(w)) for q, w in _numbers(field, "q", "w")]
    if not found:
        return None
    interval = max(-(-w * MICROSECONDS // max(1, q)) for q, w in found)
    return Limit(min(interval, int(MAX_PAUSE * MICROSECONDS)), max(1, min(q for q, _ in found) // 2))


def parse_remaining(field: str) -> tuple[int, float] | None:
    """The smallest remaining quota in a RateLimit field, and the seconds until the quota is whole again."""
    found = [(int(r), float(t)) for r, t in _numbers(field, "r", "t")]
    return min(found, key=lambda item: item[0]) if found else None


def _numbers(field: str, first: str, second: str) -> list[tuple[str, str]]:
    """The parameters `first` and `second` of each item of a RateLimit field. Items without `first` are left out."""
    found = (dict(_PARAMETER.findall(item)) for item in field.split(","))
    return [(item[first], item.get(second, "0")) for item in found if first in item]


class Quota:
    """The turns of the calls to `dependency`. A turn is the time at which a call may start.

    `rate` returns the calls per second that all `replicas` processes may make together, or None without a limit.
    Without `redis` the process paces its calls alone.
    """

    def __init__(
        self,
        dependency: str,
        *,
        redis: Redis | None = None,
        service: str = "",
        rate: Callable[[], float | None] = lambda: None,
        replicas: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._dependency = dependency
        self._rate = rate
        self._replicas = replicas
        self._clock = clock
        self._sleep = sleep
        self._execute: Callable[..., Awaitable[Any]] | None = redis.execute_command if redis else None
        self._key = names_of(redis).quota(service, dependency) if redis else ""
        self._script = resources.files("chassis.calls").joinpath("quota.lua").read_text()
        self._sha = sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._try_redis_at = 0.0
        self._tat = 0
        self._paused_until = 0.0
        self._refusals = 0
        self._policy_field = ""
        self._learned: Limit | None = None
        self._remaining = _NOTHING_REMEMBERED

    async def take(self, *, longest: float) -> None:
        """Wait for the next turn. Raises `DependencyPaused` if the turn comes later than in `longest` seconds."""
        longest = max(0.0, min(longest, MAX_PAUSE))
        if (left := self._paused_until - self._clock()) > longest:
            raise self._refused(left - longest, "local")
        limit = self._limit()
        used = 0 if self._remaining == _NOTHING_REMEMBERED else max(0, limit.burst - self._remaining)
        self._remaining = _NOTHING_REMEMBERED
        granted, wait, backend = await self._reserve(limit, used, longest)
        if not granted:
            raise self._refused(wait - longest, backend)
        if wait > 0:
            await self._sleep(wait)
            if (left := self._paused_until - self._clock()) > _EARLY:  # a refusal arrived while this call waited
                raise self._refused(left, backend)
        decisions.labels(self._dependency, "waited" if wait else "sent", backend).inc()
        wait_seconds.labels(self._dependency).observe(wait)
        if wait:
            add_to_canonical_line(call_limit_wait_ms=wait * 1000)

    def note(self, headers: Mapping[str, str]) -> None:
        """Learn the dependency's limit and the remaining quota from an answer's RateLimit fields."""
        policy = headers.get("RateLimit-Policy", "")
        if policy != self._policy_field:
            self._policy_field = policy
            self._learned = parse_policy(policy)
            if self._learned and self._learned.interval > Limit.of(self._rate()).interval:
                log.warning("dependency_limit_learned", dependency=self._dependency, policy=policy)
        if (field := headers.get("RateLimit")) and (remaining := parse_remaining(field)):
            left, reset = remaining
            self._remaining = left
            if left == 0 and self._learned is None:
                self._paused_until = max(self._paused_until, self._clock() + min(reset, MAX_PAUSE))

    def note_success(self) -> None:
        """Note that the dependency has accepted a call, so that the next refusal causes the shortest pause again."""
        self._refusals = 0

    async def pause(self, seconds: float | None) -> float:
        """Pause the calls of all processes, because the dependency has refused a call (429, or 503 with Retry-After).
        Returns the pause in seconds.

        `seconds` is the Retry-After, or None. Each refusal without a success in between doubles the shortest pause. The
        refusals of calls that were under way together count as one.
        """
        now = self._clock()
        if now >= self._paused_until:
            self._refusals += 1
        doubled = _SHORTEST_PAUSE * 2.0 ** min(self._refusals - 1, MAX_DOUBLINGS)
        pause = min(max(seconds or 0.0, doubled), MAX_PAUSE)
        if now < self._paused_until and now + pause <= self._paused_until + _ROUNDING:
            return self._paused_until - now
        self._paused_until = now + pause
        pauses.labels(self._dependency).inc()
        log.warning("dependency_paused", dependency=self._dependency, seconds=round(pause, 3), refusals=self._refusals)
        limit = self._limit()
        until = int((now + pause) * MICROSECONDS)
        self._tat = pause_until(self._tat, until, interval=limit.interval, burst=limit.burst)
        await self._ask_redis(limit, used=0, longest=0.0, pause=pause)
        return pause

    def _limit(self) -> Limit:
        limit = Limit.of(self._rate())
        return limit.within(self._learned) if self._learned else limit

    async def _reserve(self, limit: Limit, used: int, longest: float) -> tuple[bool, float, str]:
        answer = await self._ask_redis(limit, used=used, longest=longest, pause=0.0)
        if answer is not None:
            granted, wait = answer
            return granted, wait, "redis"
        now, share = int(self._clock() * MICROSECONDS), limit.share(self._replicas())
        turn = decide_turn(
            self._tat,
            now,
            interval=share.interval,
            burst=share.burst,
            used=min(used, share.burst),
            longest=int(longest * MICROSECONDS),
        )
        self._tat = turn.tat
        return turn.granted, turn.wait / MICROSECONDS, "local"

    async def _ask_redis(self, limit: Limit, *, used: int, longest: float, pause: float) -> tuple[bool, float] | None:
        """The decision of the script in Redis, which all processes share, or None while Redis fails."""
        if self._execute is None or self._clock() < self._try_redis_at:
            return None
        times = (int(seconds * MICROSECONDS) for seconds in (longest, pause, MAX_PAUSE))
        arguments = (1, self._key, *limit, used, *times)
        try:
            try:
                granted, wait = await self._execute("EVALSHA", self._sha, *arguments)
            except NoScriptError:  # Redis has restarted, or has never run the script
                granted, wait = await self._execute("EVAL", self._script, *arguments)
        except (RedisError, TimeoutError) as error:
            log.warning("call_limit_redis_lost", dependency=self._dependency, error=repr(error))
            self._try_redis_at = self._clock() + _REDIS_PAUSE
            return None
        return granted == 1, wait / MICROSECONDS

    def _refused(self, seconds: float, backend: str) -> DependencyPaused:
        decisions.labels(self._dependency, "refused", backend).inc()
        return DependencyPaused(self._dependency, retry_after=max(seconds, 0.05))
