"""The canonical line: one log line that sums up a request, a job or an event. The fields of this line are collected
while the work runs.

Source: https://stripe.com/blog/canonical-log-lines.
"""

from collections.abc import Generator
from contextvars import ContextVar
from typing import Any

from chassis.fast.contextmanager import contextmanager

CANONICAL_EVENTS = frozenset({"request_completed", "job_finished", "event_processed"})
"""The event names of canonical lines, the log lines that sum up a request, a job or an event. These lines are never
suppressed as repetitions, so that readers of the log can count requests, jobs and events.
"""

_canonical: ContextVar[dict[str, Any] | None] = ContextVar("canonical_line", default=None)
_standing: dict[str, Any] = {}


@contextmanager
def canonical_line() -> Generator[dict[str, Any]]:
    """Collect the fields of one request's or job's canonical line (the log line that sums up the work) inside the
    block. The code that opens the block writes the line.
    """
    fields = dict(_standing)
    token = _canonical.set(fields)
    try:
        yield fields
    finally:
        _canonical.reset(token)


def add_to_canonical_line(**amounts: float) -> None:
    """Add amounts (counts, milliseconds) to the canonical line, the log line that sums up the current request or job.
    Does nothing outside a request or job.
    """
    fields = _canonical.get()
    if fields is not None:
        for name, amount in amounts.items():
            fields[name] = round(fields.get(name, 0) + amount, 3)


def put_on_canonical_line(**values: str | float) -> None:
    """Set fields of the canonical line, the log line that sums up the current request or job. Does nothing outside a
    request or job.
    """
    fields = _canonical.get()
    if fields is not None:
        fields.update(values)


def put_on_every_canonical_line(**values: str) -> None:
    """Set fields, such as the configuration's hash, of every later canonical line of this process. A canonical line
    sums up a request or job.
    """
    _standing.update(values)
