"""An SQL condition for sweeps: a sweep enqueues a job for a stuck order or payment only if none of its jobs is live."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, Text, cast, column, func, or_, select, table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute

from chassis.jobs.payload import JobPayload

DEAD_PAUSE = timedelta(minutes=10)
"""After a job has become a dead letter, sweeps enqueue no other job for the same ids during this time. So an operator
finds a few dead letters rather than hundreds, and an order still gets a new job after its problem is solved."""

_JOB = table(
    "job",
    column("name", Text),
    column("status", Text),
    column("payload", JSONB),
    column("run_at", DateTime(timezone=True)),
)


def has_live_job(kinds: Iterable[type[JobPayload]], **about: InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
    """SQL condition: whether a job of one of these `kinds`, with the ids `about` in its payload, is live.

    A job is live while it waits, backs off or runs, and for `DEAD_PAUSE` after it became a dead letter. The
    deduplication key does not tell whether a job is live: a claim clears the key, so a job that backs off has none.
    """
    return (
        select(_JOB)
        .where(
            _JOB.c.name.in_([kind.options.name for kind in kinds]),
            or_(
                _JOB.c.status.in_(["ready", "running"]),
                # A dead letter with a `run_at` in the future was written before the clock was set back. Such a dead
                # letter is not live.
                _JOB.c.run_at.between(func.now() - DEAD_PAUSE, func.now()),
            ),
            *(_JOB.c.payload[name].astext == cast(value, Text) for name, value in about.items()),
        )
        .exists()
    )
