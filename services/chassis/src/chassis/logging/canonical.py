"""The canonical line: one log line that sums up a request, a job or an event. The fields of this line are collected
while the work runs.

Source: https://stripe.com/blog/canonical-log-lines.
"""

from collections.abc import Generator
from contextvars import ContextVar
from typing import Any

from chassis.fast.contextmanager import contextmanager

CANONICAL_EVENTS = frozenset({"request_completed", "job_finished", "event_processed"})
"""The names of canonical lines. Canonical lines are never suppressed as repetitions, so that they can be counted."""

_canonical: ContextVar[dict[str, Any] | None] = ContextVar("canonical_line", default=None)
_standing: dict[str, Any] = {}


@contextmanager
def canonical_line() -> Generator[dict[str, Any]]:
    """Collect the fields of one request's or job's canonical line. The code that opens the block writes the line."""
    fields = dict(_standing)
    token = _canonical.set(fields)
    try:
        yield fields
    finally:
        _canonical.reset(token)


def add_to_canonical_line(**amounts: float) -> None:
    """Add amounts (counts, milliseconds) to the canonical line of the current request or job, if there is one."""
    fields = _canonical.get()
    if fields is not None:
        for name, amount in amounts.items():
            fields[name] = round(fields.get(name, 0) + amount, 3)


def put_on_canonical_line(**values: str | float) -> None:
    """Set fields of the canonical line of the current request or job, if there is one."""
    fields = _canonical.get()
    if fields is not None:
        fields.update(values)


def put_on_every_canonical_line(**values: str) -> None:
    """Set fields of every canonical line of this process from now on, such as the configuration's hash."""
    _standing.update(values)
