"""The loop of attempts around a call.

After a failed attempt, the loop decides whether to repeat the call, takes a token from the retry budget (which bounds
the retries of all calls together), and waits.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import random as default_random

from prometheus_client import Counter, Histogram

from chassis.config.settings import RetrySettings
from chassis.errors import DeadlineExceeded, DependencyError
from chassis.logging import add_to_canonical_line, get_logger
from chassis.retries import deadlines
from chassis.retries.budget import RetryBudget
from chassis.retries.decisions import Stop, Wait, decide, was_refused_here

log = get_logger(__name__)

retry_attempts = Counter("retry_attempts", "Attempts, including first attempts, by outcome.", ["dependency", "outcome"])
retry_stopped = Counter(
    "retry_stopped", "Calls that failed without a further attempt, by reason.", ["dependency", "reason"]
)
amplification = Histogram(
    "retry_amplification",
    "Attempts that each call made on the dependency: sum ÷ count is the amplification factor.",
    ["dependency"],
    buckets=(0, 1, 2, 3, 5, 10),  # numbers of attempts; a policy allows at most 10
)


async def retry[T](
    call: Callable[[int], Awaitable[T]],
    *,
    policy: RetrySettings,
    budget: RetryBudget,
    idempotent: bool,
    dependency: str,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    random: Callable[[], float] = default_random,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Run `call(attempt)` for attempt = 1, 2, … until an attempt succeeds or the call must not be repeated.

    All attempts and waits together end after `policy.total_timeout` seconds, or at the caller's deadline if the
    deadline is earlier. Raises the last error, except in one case. If the last attempt certainly did not run, but an
    earlier one may have run, raises the earlier attempt's error. So the caller learns that the call may have had an
    effect.
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
                    made += not was_refused_here(error)
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
    outcome = "refused_here" if was_refused_here(error) else error.outcome
    retry_attempts.labels(dependency, outcome).inc()
    fields = {"dependency": dependency, "attempt": attempt, "outcome": error.outcome, "reason": error.reason}
    if isinstance(decision, Wait):
        add_to_canonical_line(retries=1)
        log.warning("dependency_attempt_failed", **fields, retry_in_seconds=round(decision.seconds, 3))
        return
    retry_stopped.labels(dependency, decision.reason).inc()
    # `retry` raises this error, and the code that catches the error logs it at the level that fits. So this line is
    # DEBUG.
    log.debug("dependency_attempt_failed", **fields, stopped_by=decision.reason)
