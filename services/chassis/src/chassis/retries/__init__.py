"""Retries: again only what can succeed and may be repeated, after a random wait, within a budget and a deadline.

One layer only: where a job is rescheduled on failure, its call is a single attempt (`max_attempts=1`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from random import random as uniform
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

from chassis.config.settings import RetrySettings
from chassis.errors import BreakerOpen, BulkheadFull, DeadlineExceeded, DependencyError
from chassis.logging import add_to_canonical_line, get_logger
from chassis.retries import deadlines

log = get_logger(__name__)

retry_attempts = Counter("retry_attempts", "Attempts, the first ones included, by outcome.", ["dependency", "outcome"])
retry_stopped = Counter("retry_stopped", "Calls given up, by what forbade a further attempt.", ["dependency", "reason"])
amplification = Histogram(
    "retry_amplification",
    "Attempts that each call made on the dependency: sum ÷ count is the amplification factor.",
    ["dependency"],
    buckets=(0, 1, 2, 3, 5, 10),  # attempts; a policy has at most 10
)
retry_budget_balance = Gauge("retry_budget_balance", "Retries the budget would allow now.", ["dependency"])

# 408, 429 and the gateway's 502, 503, 504: the server did not do the work, or may be able to in a moment.
# A plain 500 is a defect that a repetition meets again.
RETRYABLE_STATUSES = frozenset({408, 429, 502, 503, 504})

_DAY = 86_400.0

type StopReason = Literal["not_retryable", "attempts", "deadline", "budget"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Don't try again."""

    reason: StopReason


def decide(
    error: DependencyError,
    *,
    attempt: int,
    policy: RetrySettings,
    idempotent: bool,
    remaining: float,
    random: Callable[[], float],
) -> Wait | Stop:
    """What to do after `attempt` (1, 2, …) failed with `error` and `remaining` seconds are left."""
    if not is_retryable(error, idempotent=idempotent):
        return Stop("not_retryable")
    if attempt >= policy.max_attempts:
        return Stop("attempts")
    seconds = max(
        full_jitter(attempt - 1, base=policy.base_delay, cap=policy.max_delay, random=random), error.retry_after or 0.0
    )
    # A wait that the deadline would cut short is not begun: the attempt after it could not be made.
    return Stop("deadline") if seconds >= remaining else Wait(seconds)


def is_retryable(error: DependencyError, *, idempotent: bool) -> bool:
    """Whether repeating can help and cannot harm.

    What is known not to have run may always be repeated; what may have run only if the call is idempotent, and then
    after transport errors, time-outs (both have no status) and the retryable statuses. Never what this process itself
    refused: repeating against an open breaker or a full bulkhead is the load that they exist to keep away.
    """
    if _was_refused_here(error):
        return False
    if error.outcome == "not_run":
        return True
    return idempotent and (error.status is None or error.status in RETRYABLE_STATUSES)


def _was_refused_here(error: DependencyError) -> bool:
    """Whether this process did not let it out: then it was no attempt on the dependency."""
    return isinstance(error, BreakerOpen | BulkheadFull)


_MAX_EXPONENT = 32
"""2³² times any base is above every cap, and 2.0ⁿ overflows in the end."""


def full_jitter(n: int, *, base: float, cap: float, random: Callable[[], float]) -> float:
    """Seconds before retry n = 0, 1, …: U(0, min(cap, base·2ⁿ)).

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    return random() * min(cap, base * 2.0 ** min(n, _MAX_EXPONENT))


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds (0 to a day) that a Retry-After header asks for; None if it is missing or unreadable.

    The header is a number of seconds or an HTTP date; `now` is Unix time.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value), _DAY)
    try:
        date = parsedate_to_datetime(value)
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), _DAY)


class RetryBudget:
    """A token bucket per dependency that bounds retries to a share of the calls, whatever each call's own limit.

    Each call earns `budget_ratio`, each retry spends 1. It holds at most `budget_floor`, so that a long calm does not
    save up a storm, and regains that within `budget_refill_seconds`, so that a quiet service may retry as well.
    """

    def __init__(self, dependency: str, policy: RetrySettings) -> None:
        self._capacity = max(1.0, policy.budget_floor)
        self._ratio = policy.budget_ratio
        self._refill_per_second = policy.budget_floor / policy.budget_refill_seconds
        self._updated: float | None = None
        self.balance = policy.budget_floor
        retry_budget_balance.labels(dependency).set_function(lambda: self.balance)

    def earn(self, now: float) -> None:
        """Count a call's first attempt; `now` in seconds of any monotonic clock."""
        self.balance = self._refilled(now) + self._ratio

    def spend(self, now: float) -> bool:
        """Take one retry from the budget if it has one."""
        balance = self._refilled(now)
        affordable = balance >= 1
        self.balance = balance - affordable
        return affordable

    def _refilled(self, now: float) -> float:
        elapsed = 0.0 if self._updated is None else now - self._updated
        self._updated = now
        return min(self._capacity, self.balance + elapsed * self._refill_per_second)


async def retry[T](
    call: Callable[[int], Awaitable[T]],
    *,
    policy: RetrySettings,
    budget: RetryBudget,
    idempotent: bool,
    dependency: str,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    random: Callable[[], float] = uniform,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Run `call(attempt)` for attempt = 1, 2, … until it succeeds or may not be repeated; then raise its error.

    All attempts and waits share `policy.total_timeout` and the caller's deadline, whichever ends first. Raises the last
    error, except that a call of which any attempt may have run is never reported as "not run".
    """
    budget.earn(clock())
    uncertain: DependencyError | None = None
    attempt = made = 0
    try:
        with deadlines.deadline(policy.total_timeout, clock=clock):
            while True:
                attempt += 1
                try:
                    result = await call(attempt)
                except DeadlineExceeded as error:
                    if uncertain is not None:
                        raise uncertain from error
                    raise
                except DependencyError as error:
                    made += not _was_refused_here(error)
                    uncertain = error if error.outcome == "unknown" else uncertain
                    remaining = deadlines.remaining(clock=clock)
                    decision = decide(
                        error, attempt=attempt, policy=policy, idempotent=idempotent, remaining=remaining, random=random
                    )
                    if isinstance(decision, Wait) and not budget.spend(clock()):
                        decision = Stop("budget")
                    _record_failure(dependency, attempt, error, decision)
                    if isinstance(decision, Stop):
                        if uncertain is not None and error.outcome == "not_run":
                            raise uncertain from error
                        raise
                else:
                    made += 1
                    retry_attempts.labels(dependency, "success").inc()
                    return result
                await sleep(decision.seconds)
    finally:
        amplification.labels(dependency).observe(made)


def _record_failure(dependency: str, attempt: int, error: DependencyError, decision: Wait | Stop) -> None:
    outcome = "refused_here" if _was_refused_here(error) else error.outcome
    retry_attempts.labels(dependency, outcome).inc()
    fields = {"dependency": dependency, "attempt": attempt, "outcome": error.outcome, "reason": error.reason}
    if isinstance(decision, Wait):
        add_to_canonical_line(retries=1)
        log.warning("dependency_attempt_failed", **fields, retry_in_seconds=round(decision.seconds, 3))
        return
    retry_stopped.labels(dependency, decision.reason).inc()
    # The error travels on; whoever decides what it means logs it at the level it deserves.
    log.debug("dependency_attempt_failed", **fields, stopped_by=decision.reason)
