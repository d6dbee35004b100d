"""Deadlines: the time left for a request, across every process that works on it.

A deadline arrives with a request and is never extended. Each process checks the deadline before each expensive step and
sends the deadline with each call. A header carries the deadline as the *remaining* time in milliseconds, like gRPC's
`grpc-timeout` and Envoy's `x-envoy-expected-rq-timeout-ms`. An absolute time would be wrong by the difference between
the clocks of two machines. A remaining time is wrong only by the time that the request spends on the network. Inside a
process a deadline is an instant of the monotonic clock.
"""

import math
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from contextvars import ContextVar

from prometheus_client import Counter

from chassis.errors import DeadlineExceeded
from chassis.fast.contextmanager import contextmanager

HEADER = "X-Request-Timeout-Ms"

deadline_exceeded = Counter("deadline_exceeded", "Steps that were not started because their deadline had passed.")

type Clock = Callable[[], float]

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


def from_header(value: str | None, limit: float) -> float:
    """The seconds that a caller grants with the header's `value`, at most `limit`.

    A missing or unreadable value (anything but ASCII digits) grants `limit`, so a caller's mistake does not fail the
    request.
    """
    if value is None or not (value.isascii() and value.isdigit()):
        return limit
    # float accepts any number of digits, whereas int refuses more than 4,300.
    return min(float(value) / 1000, limit)


def to_header(seconds: float) -> str:
    """The header value that grants the called process `seconds`, rounded down."""
    return str(max(0, int(seconds * 1000)))


@contextmanager
def _until(instant: float) -> Generator[None]:
    token = _deadline.set(instant)
    try:
        yield
    finally:
        _deadline.reset(token)


def deadline(seconds: float, *, clock: Clock = time.monotonic) -> AbstractContextManager[None]:
    """Set the deadline of a `with` block to `seconds` from now. An outer deadline that is earlier stays in force."""
    return _until(min(_deadline.get(), clock() + seconds))


def lifted() -> AbstractContextManager[None]:
    """Remove the deadline inside a `with` block, for work that goes on after the request that began the work."""
    return _until(math.inf)


def remaining(*, clock: Clock = time.monotonic) -> float:
    """The seconds left: negative after the deadline, infinite without a deadline."""
    return _deadline.get() - clock()


def check(step: str, *, clock: Clock = time.monotonic) -> None:
    """Raise `DeadlineExceeded` ("The deadline passed before {step}") if the deadline has passed."""
    if remaining(clock=clock) <= 0:
        deadline_exceeded.inc()
        raise DeadlineExceeded(step)
