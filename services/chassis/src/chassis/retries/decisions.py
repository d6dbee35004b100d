"""Decides whether and when a failed call is attempted again. This module does no I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from chassis.config.settings import RetrySettings
from chassis.errors import BreakerOpen, BulkheadFull, DependencyError, DependencyPaused
from chassis.retries.backoff import full_jitter

# The statuses after which a later attempt may succeed: 408, 429, and 502, 503 and 504 of a gateway. A 500 is a defect
# of the server, and a repetition would fail in the same way.
RETRYABLE_STATUSES = frozenset({408, 429, 502, 503, 504})

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
    """The next step after `attempt` (1, 2, …) failed with `error`, with `remaining` seconds until the deadline.

    If this function allows a retry, the caller still has to take a token from the retry budget.
    """
    if not is_retryable(error, idempotent=idempotent):
        return Stop("not_retryable")
    if attempt >= policy.max_attempts:
        return Stop("attempts")
    backoff = full_jitter(attempt - 1, base=policy.base_delay, cap=policy.max_delay, random=random)
    seconds = max(backoff, error.retry_after or 0.0)
    # If the wait would last until the deadline, no attempt could follow, so the wait does not begin.
    return Stop("deadline") if seconds >= remaining else Wait(seconds)


def is_retryable(error: DependencyError, *, idempotent: bool) -> bool:
    """Whether another attempt can succeed and cannot have a second effect.

    An attempt that certainly did not run may always be repeated. An attempt that may have run is repeated only if the
    call is idempotent. In addition, the attempt must have ended with a retryable status, or without a status: by a
    transport error or a time-out. An attempt that the breaker or the bulkhead of this process refused is never
    repeated, because the refusal has to reduce the load.
    """
    if was_refused_here(error):
        return False
    if error.outcome == "not_run":
        return True
    return idempotent and (error.status is None or error.status in RETRYABLE_STATUSES)


def was_refused_here(error: DependencyError) -> bool:
    """Whether this process refused the call before the call reached the dependency."""
    return isinstance(error, BreakerOpen | BulkheadFull | DependencyPaused)
