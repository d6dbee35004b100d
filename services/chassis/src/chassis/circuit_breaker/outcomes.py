"""How a call ended, as the breaker counts it. This module does no I/O."""

from typing import Literal

from chassis.errors import (
    BreakerOpen,
    BulkheadFull,
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
)

type CallOutcome = Literal["success", "failure", "cut_short", "ignored"]
"""`cut_short`: the caller's deadline ended the call, which proves only that the dependency took at least that long.
`ignored`: the call says nothing about the dependency's health.
"""


def outcome_of(error: BaseException | None) -> CallOutcome:
    """The outcome of a call that ended with `error`. The `error` is None if the call ended with an answer.

    A 4xx counts as a success, because a healthy dependency sends it. A 429 is ignored, because it only asks for fewer
    calls. A full bulkhead, a cancellation and errors from elsewhere are ignored, because the dependency did not cause
    them.
    """
    match error:
        case None | DependencyRejected():
            return "success"
        case BulkheadFull() | BreakerOpen():
            return "ignored"
        case DependencyTimeout(cut_short=True):
            return "cut_short"
        case DependencyTimeout() | DependencyFailed() | DependencyUnavailable(status=None):
            return "failure"
        case _:
            return "ignored"
