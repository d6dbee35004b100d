"""Background jobs on PostgreSQL: enqueued in the caller's transaction, run at least once, finished by one owner.

A worker claims a job with a lease and keeps it with a heartbeat. The attempt is counted at claim and is the fencing
token: a worker that lost its lease (killed, stopped, cut off) finishes nothing. What a handler writes with
`RunningJob.complete_in` commits together with the job's end, so those effects happen exactly once.

Here is what a service writes jobs with. `chassis.jobs.runner` runs them in a worker, `chassis.jobs.dead_letters` shows
and replays those that could not be saved, and `jobs.sql` has every statement.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, DateTime, Text, cast, column, func, or_, select, table, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from chassis.errors import LeaseLost
from chassis.logging import debug_header
from chassis.pooling import HotSession, after_commit, execute_in
from chassis.pooling.statements import DriverStatement, load_statements
from chassis.pooling.wakeup import wake_after_commit
from chassis.telemetry import SpanKind, current_traceparent, is_unrecorded, span

_SQL = load_statements("jobs.sql", package="chassis.jobs")
STATEMENTS = {name: text(sql) for name, sql in _SQL.items()}
DRIVER_STATEMENTS = {name: DriverStatement.of(sql) for name, sql in _SQL.items()}
"""The same for the driver's own connection: the runner's, which run all the time, and `enqueue`."""

_JOB = table(
    "job",
    column("name", Text),
    column("status", Text),
    column("payload", JSONB),
    column("run_at", DateTime(timezone=True)),
)

DEAD_PAUSE = timedelta(minutes=10)
"""How long a dead letter keeps a sweep from making another job about the same: whoever is alarmed sees a few of them,
not hundreds, and what heals by itself still goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """How a job runs. Times are in seconds; `backoff_base` and `backoff_cap` default to the worker's settings.

    A higher `priority` goes first, yet a quarter of all claims take the longest due. `unique` names the fields of the
    payload that make it the same job as another one: while one waits, no twin is added.
    """

    name: str
    version: int = 1
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 10
    time_limit: float = 30.0
    backoff_base: float | None = None
    backoff_cap: float | None = None
    unique: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.time_limit <= 0 or not -100 <= self.priority <= 100:  # noqa: PLR2004
            raise ValueError(f"{self.name}: max_attempts from 1, time_limit above 0, priority from -100 to 100")


class JobPayload(BaseModel):
    """What a job is given: ids, not objects, since it runs later and reads their state then.

    Options are class keywords: `class RequestPayment(JobPayload, job="request_payment", unique=("order_id",))`. A
    change of fields that waiting jobs cannot be read with needs a new `version`: the class of the old one stays, with
    its handler, until none is left. A job whose version no handler is for is a dead letter that says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    options: ClassVar[JobOptions]

    def __init_subclass__(cls, *, job: str, **options: Any) -> None:
        cls.options = JobOptions(name=job, **options)

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        if unknown := set(cls.options.unique) - cls.model_fields.keys():
            raise ValueError(f"{cls.__name__} has no {', '.join(sorted(unknown))} to be unique by")

    @property
    def unique_key(self) -> str | None:
        """What no other waiting job of this name may have; None: as many as there are."""
        return ":".join(str(getattr(self, name)) for name in self.options.unique) or None


async def enqueue(
    session: AsyncSession,
    payload: JobPayload,
    *,
    unique_key: str | None = None,
    delay: float = 0,
    deadline: float | None = None,
) -> bool:
    """Add the job to the session's transaction: it exists if and only if that commits.

    It runs after `delay` seconds, and is not started more than `deadline` seconds from now; its calls get what is
    left of those. False when a job of this name with the same `unique_key` waits already; one that runs does not count,
    since it may have read older state.
    """
    with _producing(payload.options):
        values = _values(payload) | {"delay": delay, "deadline": deadline}
        if unique_key:
            values["job_unique_key"] = unique_key
        statement = "enqueue" if values["job_unique_key"] is None else "enqueue_unique"
        is_added = await execute_in(session, DRIVER_STATEMENTS[statement], **values) > 0
    if is_added and delay <= 0:
        wake_after_commit(session, wakeup_channel(payload.options.queue))
    return is_added


def to_insert(session: HotSession, payload: JobPayload) -> dict[str, Any]:
    """`enqueue` for a hot statement of a service, which inserts these values, `job_…`, into `job`, due at once."""
    wake_after_commit(session, wakeup_channel(payload.options.queue))
    with _producing(payload.options):
        return _values(payload)


def _producing(options: JobOptions) -> AbstractContextManager[object]:
    if is_unrecorded():
        return nullcontext()  # the job continues the caller's trace, of which nobody will see anything
    return span(f"enqueue {options.name}", kind=SpanKind.PRODUCER, attributes=lambda: _attributes(options))


def _values(payload: JobPayload) -> dict[str, Any]:
    options = payload.options
    return {
        "job_name": options.name,
        "job_queue": options.queue,
        "job_priority": options.priority,
        "job_payload": payload.model_dump_json(),
        "job_version": options.version,
        "job_max_attempts": options.max_attempts,
        "job_unique_key": payload.unique_key,
        "job_traceparent": current_traceparent(),
        "job_debug": debug_header(),
    }


def has_live_job(kinds: Iterable[type[JobPayload]], **about: InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
    """SQL for a sweep: whether a job of one of these kinds whose payload has these ids waits, backs off or runs, or has
    died within `DEAD_PAUSE`.

    `unique_key` cannot tell: a job gives it up when it is claimed, so that one which backs off does not hold it.
    """
    return (
        select(_JOB)
        .where(
            _JOB.c.name.in_([kind.options.name for kind in kinds]),
            or_(
                _JOB.c.status.in_(["ready", "running"]),
                # A dead letter that was due at a time to come is from before the clock was set back.
                _JOB.c.run_at.between(func.now() - DEAD_PAUSE, func.now()),
            ),
            *(_JOB.c.payload[name].astext == cast(value, Text) for name, value in about.items()),
        )
        .exists()
    )


def wakeup_channel(queue: str) -> str:
    """The notification channel of a queue's workers."""
    return f"jobs_{queue}"


def _attributes(options: JobOptions) -> dict[str, str | int]:
    return {
        "messaging.system": "postgresql",
        "messaging.operation.type": "send",
        "messaging.destination.name": options.queue,
    }


@dataclass(eq=False, slots=True, kw_only=True)
class RunningJob:
    """One attempt at a job, as its handler sees it. `(id, attempt)` is the fencing token; attempts count from 1."""

    id: int
    name: str
    attempt: int
    max_attempts: int
    is_finishing: bool = field(default=False, init=False)
    is_complete: bool = field(default=False, init=False)

    async def complete_in(self, session: AsyncSession) -> None:
        """Finish the job in this transaction, so that its effects and its end commit together, exactly once.

        The last statement before the commit. Raises `LeaseLost` when another worker may own the job by now: let it
        roll the transaction back.
        """
        self.is_finishing = True
        if await session.scalar(STATEMENTS["complete"], {"id": self.id, "attempt": self.attempt}) is None:
            raise LeaseLost(f"job {self.id} is no longer run by attempt {self.attempt}")
        after_commit(session, self._mark_complete)

    def _mark_complete(self) -> None:
        self.is_complete = True
