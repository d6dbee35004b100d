"""Checkouts: a checkout begins when code takes a connection, and ends when the code gives the connection back.

Two mistakes empty a pool without any error: code holds a connection during an outbound call, or code never gives a
connection back. This module finds both mistakes and costs less than a microsecond per checkout: it records only the
line of code and the task that took the connection. The module collects the task's stack only when it writes a log line.
"""

import asyncio
import inspect
import time
from contextvars import ContextVar
from typing import Any, Self

from chassis.errors import HoldfastError
from chassis.logging import get_logger
from chassis.pooling import metrics

log = get_logger(__name__)

_BETWEEN = frozenset({__name__, "chassis.pooling.database", "contextlib"})
"""The modules whose stack frames lie between a caller's `async with` and `Checkout.__enter__`."""
_MAX_STACK = 40
"""The maximum number of a task's stack frames in a log line. A request's stack, frameworks included, has about 20
frames.
"""


class ConnectionHeld(HoldfastError):
    """An outbound call was refused, because an `async with` block around the call holds a connection. Make the call
    outside the block.
    """


class Checkouts:
    """The open checkouts of one pool: one per connection that is in use."""

    def __init__(self, pool: str, *, overdue_after: float, refuse_calls: bool) -> None:
        self.pool = pool
        self.refuse_calls = refuse_calls
        self._overdue_after = overdue_after
        self._open: dict[Checkout, None] = {}  # in the order of their starts, the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._reported: set[str] = set()
        self._use_seconds = metrics.use_seconds.labels(pool)
        self._overdue = metrics.overdue.labels(pool)

    def checkout(self) -> "Checkout":
        """A context manager that records a connection as in use while its block runs."""
        return Checkout(self)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def taken(self, checkout: "Checkout") -> None:
        self._open[checkout] = None
        if self._timer is None:
            self._look_again_in(self._overdue_after)

    def given_back(self, checkout: "Checkout", now: float) -> None:
        del self._open[checkout]
        self._use_seconds.observe(now - checkout.taken_at)

    def is_first_report(self, checkout: "Checkout") -> bool:
        """Whether this call is the first report about the line of code that took the connection."""
        is_first_report = checkout.taken_by not in self._reported
        self._reported.add(checkout.taken_by)
        return is_first_report

    def _look_again_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Log each checkout that has lasted longer than `overdue_after`, but only once.

        One timer is enough, because the oldest checkout becomes overdue first.
        """
        now = time.perf_counter()
        self._timer = None
        for checkout in self._open:
            age = now - checkout.taken_at
            if age < self._overdue_after:
                self._look_again_in(self._overdue_after - age)
                return
            if not checkout.is_reported:
                checkout.is_reported = True
                self._overdue.inc()
                log.warning("connection_overdue", pool=self.pool, seconds=round(age, 1), **checkout.where())
        if self._open:
            self._look_again_in(self._overdue_after)


class Checkout:
    """The use of one connection by a task. The tasks that this task starts inherit the checkout, so they count as users
    of the connection, too.
    """

    __slots__ = ("_caller", "_checkouts", "_outer", "is_open", "is_reported", "taken_at", "task")

    def __init__(self, checkouts: Checkouts) -> None:
        self._checkouts = checkouts
        self.is_open = True
        self.is_reported = False

    def __enter__(self) -> Self:
        caller = inspect.currentframe()
        while caller is not None and caller.f_globals["__name__"] in _BETWEEN:
            caller = caller.f_back
        # `_caller` has the code and the line instead of the frame, because a stored frame would keep the caller's local
        # variables in memory.
        self._caller = caller and (caller.f_code, caller.f_lineno)
        self.task = asyncio.current_task()
        self._outer = _newest_open()
        _newest.set(self)
        self.taken_at = time.perf_counter()
        self._checkouts.taken(self)
        return self

    def __exit__(self, *_error: object) -> None:
        self.is_open = False
        _newest.set(self._outer)
        self._checkouts.given_back(self, time.perf_counter())

    @property
    def outer(self) -> "Checkout | None":
        return self._outer

    @property
    def taken_by(self) -> str:
        if self._caller is None:
            return "unknown"  # this implementation of Python does not provide stack frames
        code, line = self._caller
        return f"{code.co_filename}:{line} in {code.co_qualname}"

    def where(self) -> dict[str, Any]:
        """Fields of a log line. `taken_by` is the line of code that took the connection. `waits_at` lists the lines of
        code at which the task now waits, the outermost line first.
        """
        return {"taken_by": self.taken_by, "waits_at": _awaited(self.task) if self.task else []}

    def called_across(self, dependency: str) -> None:
        """Count an outbound call that the task makes during this checkout. Then refuse the call or log it."""
        pool = self._checkouts.pool
        metrics.held_calls.labels(pool, dependency).inc()
        if self._checkouts.refuse_calls:
            raise ConnectionHeld(f"no call to {dependency} while {self.taken_by} holds a connection of {pool}")
        if self._checkouts.is_first_report(self):
            log.warning("connection_held_across_call", pool=pool, dependency=dependency, **self.where())


_newest: ContextVar[Checkout | None] = ContextVar("chassis_checkout", default=None)


def check_nothing_held(dependency: str) -> None:
    """Check, before a call to `dependency`, that neither this task nor a task that started it holds a connection.

    If one of these tasks holds a connection, this function counts the call. Then, with `database.held_calls: refuse`,
    the function raises `ConnectionHeld`. With `database.held_calls: warn`, the function writes a log line, but only
    once for each line of code that takes connections.
    """
    if checkout := _newest_open():
        checkout.called_across(dependency)


def _newest_open() -> Checkout | None:
    """The newest checkout that is still open, or None.

    A task inherits the checkouts of the task that started it. That task may end a checkout while this task still runs,
    so the newest checkout may already be closed.
    """
    checkout = _newest.get()
    while checkout is not None and not checkout.is_open:
        checkout = checkout.outer
    return checkout


def _awaited(task: asyncio.Task[Any]) -> list[str]:
    """The lines at which a suspended task waits. The first line is in the task's coroutine, the second in the coroutine
    that this one awaits, and so on.
    """
    found: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(found) < _MAX_STACK:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            found.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return found
