"""A condition for sweeps, which find stuck orders and payments: whether a job already works on one of them."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, Text, cast, column, func, or_, select, table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute

from chassis.jobs.payload import JobPayload

DEAD_PAUSE = timedelta(minutes=10)
"""How long a dead letter keeps sweeps from enqueueing another job for the same ids. An operator then finds a few dead
letters rather than hundreds, and an order whose problem has gone still gets a new job."""

_JOB = table(
    "job",
    column("name", Text),
    column("status", Text),
    column("payload", JSONB),
    column("run_at", DateTime(timezone=True)),
)


def has_live_job(kinds: Iterable[type[JobPayload]], **about: InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
    """SQL: whether a job of one of these kinds, with these ids in its payload, is live.

    A job is live while it waits, backs off or runs, and for `DEAD_PAUSE` after it died. The deduplication key cannot
    answer this: a job gives its key up when it is claimed, so a job that backs off no longer holds it.
    """
    return (
        select(_JOB)
        .where(
            _JOB.c.name.in_([kind.options.name for kind in kinds]),
            or_(
                _JOB.c.status.in_(["ready", "running"]),
                # A dead letter with a `run_at` in the future was written before the clock was set back.
                _JOB.c.run_at.between(func.now() - DEAD_PAUSE, func.now()),
            ),
            *(_JOB.c.payload[name].astext == cast(value, Text) for name, value in about.items()),
        )
        .exists()
    )
