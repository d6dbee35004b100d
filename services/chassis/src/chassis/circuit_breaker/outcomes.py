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
    """The outcome of a call that ended with `error`, or with an answer (None).

    A 4xx is the answer of a healthy dependency. A 429 asks for fewer calls, and a full bulkhead, a cancellation or an
    error from elsewhere is about the caller: these are ignored.
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
