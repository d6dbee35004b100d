"""The outcomes of a call that the breaker distinguishes. This module does no I/O."""

from typing import Literal

from chassis.errors import (
    BreakerOpen,
    BulkheadFull,
    DependencyError,
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
)

type CallOutcome = Literal["success", "failure", "cut_short", "ignored"]
"""`cut_short`: the caller's deadline ended the call, which proves only that the dependency needs more time than the
caller had left. `ignored`: the call says nothing about the dependency's health.
"""


def outcome_of(error: BaseException | None) -> CallOutcome:
    """The outcome of a call that ended with `error`. The `error` is None if the call succeeded.

    A 4xx answer counts as a success, because the dependency works and refuses only this request. A refusal (429, or 503
    with Retry-After) is ignored, because a dependency that asks for fewer calls has not failed. A full bulkhead, a
    cancellation and every other error are ignored, because the dependency did not cause them.
    """
    match error:
        case None | DependencyRejected():
            return "success"
        case BulkheadFull() | BreakerOpen() | DependencyError(is_refusal=True):
            return "ignored"
        case DependencyTimeout(cut_short=True):
            return "cut_short"
        case DependencyTimeout() | DependencyFailed() | DependencyUnavailable(status=None):
            return "failure"
        case _:
            return "ignored"
