"""Deadlines: the time that is left for the work at hand, from the request that caused it down to the last hop.

A deadline enters with a request, only ever shrinks, is checked before each expensive step and is sent along. Between
processes it travels as the time *remaining*, in milliseconds, as in gRPC's `grpc-timeout` and Envoy's
`x-envoy-expected-rq-timeout-ms`: an absolute time would be wrong by the difference between two clocks, a remaining
time only by the time on the wire. Inside a process it is an instant of the monotonic clock.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from prometheus_client import Counter

from chassis.errors import DeadlineExceeded

HEADER = "X-Request-Timeout-Ms"

deadline_exceeded = Counter("deadline_exceeded", "Steps that were not started because their deadline had passed.")

type Clock = Callable[[], float]

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


def from_header(value: str | None, limit: float) -> float:
    """Seconds that a caller grants by this header value, at most `limit`.

    A missing or unreadable value (anything but ASCII digits) is read as `limit`: a caller's mistake costs it nothing.
    """
    if value is None or not (value.isascii() and value.isdigit()):
        return limit
    # float takes any number of digits, where int refuses more than 4,300.
    return min(float(value) / 1000, limit)


def to_header(seconds: float) -> str:
    """The header value that grants the next hop `seconds`, rounded down."""
    return str(max(0, int(seconds * 1000)))


@contextmanager
def _until(instant: float) -> Iterator[None]:
    token = _deadline.set(instant)
    try:
        yield
    finally:
        _deadline.reset(token)


def deadline(seconds: float, *, clock: Clock = time.monotonic) -> AbstractContextManager[None]:
    """Give the block at most `seconds`, counted from now; an earlier deadline that holds already stays."""
    return _until(min(_deadline.get(), clock() + seconds))


def lifted() -> AbstractContextManager[None]:
    """No deadline for the block: for work that a request has begun and others wait for, or nobody does."""
    return _until(math.inf)


def remaining(*, clock: Clock = time.monotonic) -> float:
    """Seconds left, negative once the deadline has passed; infinity where there is none."""
    return _deadline.get() - clock()


def check(step: str, *, clock: Clock = time.monotonic) -> None:
    """Raise `DeadlineExceeded` when the time is spent. `step` is what would come next: `check("charging")`."""
    if remaining(clock=clock) <= 0:
        deadline_exceeded.inc()
        raise DeadlineExceeded(step)
