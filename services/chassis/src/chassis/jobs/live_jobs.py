"""An SQL condition for sweeps (periodic searches for stuck orders or payments).

A sweep enqueues a new job for a stuck order only if no other job for this order is live.
"""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, Text, cast, column, func, or_, select, table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute

from chassis.jobs.payload import JobPayload

DEAD_PAUSE = timedelta(minutes=10)
"""After a job has become a dead letter, sweeps enqueue no other job for the same ids during this time. Without the
pause, each sweep would add another dead letter for the same order. After the pause, the order gets a new job, which
succeeds if the problem is solved by then."""

_JOB = table(
    "job",
    column("name", Text),
    column("status", Text),
    column("payload", JSONB),
    column("run_at", DateTime(timezone=True)),
)


def has_live_job(kinds: Iterable[type[JobPayload]], **about: InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
    """SQL condition: whether there is a live job of one of these `kinds` whose payload contains the ids `about`.

    A job is live while it waits for its first attempt or a retry, or runs. A dead letter is live until `DEAD_PAUSE`
    after its last attempt was due. The deduplication key does not tell whether a job is live: a claim clears the key,
    so a job that waits for a retry has no key.
    """
    return (
        select(_JOB)
        .where(
            _JOB.c.name.in_([kind.options.name for kind in kinds]),
            or_(
                _JOB.c.status.in_(["ready", "running"]),
                # If the clock was set back, the `run_at` of a dead letter may be in the future. Such a dead letter is
                # not live. Otherwise the dead letter would prevent new jobs until the clock catches up.
                _JOB.c.run_at.between(func.now() - DEAD_PAUSE, func.now()),
            ),
            *(_JOB.c.payload[name].astext == cast(value, Text) for name, value in about.items()),
        )
        .exists()
    )
