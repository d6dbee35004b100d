"""Dead letters: jobs that no worker retries. An operator reads dead letters, and replays them or lets them expire.

The command line and the management port call the functions of this module and pass a database session.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from chassis.errors import HoldfastError
from chassis.jobs.enqueueing import wakeup_channel
from chassis.jobs.statements import STATEMENTS
from chassis.logging import get_logger
from chassis.pooling import Session, log_after_commit, wake_after_commit
from chassis.pooling.column_types import is_bigint

log = get_logger(__name__)

PRUNE_EVERY = 3600.0
"""The seconds between two calls of `prune`. A call deletes up to 1,000 dead letters, which is more than a service
produces in an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A row of the table `job`. `payload` is JSON text."""

    id: int
    name: str
    queue: str
    status: str
    attempt: int
    max_attempts: int
    payload: str
    payload_version: int
    run_at: datetime
    traceparent: str | None
    last_error: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStats:
    """The number of `jobs` of one queue, name and status. The oldest of these jobs was due `oldest_age` seconds ago."""

    queue: str
    name: str
    status: str
    jobs: int
    oldest_age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Selects dead letters by job name, by queue, and by a part of the reason. A field that is None selects every
    value.
    """

    name: str | None = None
    queue: str | None = None
    error: str | None = None

    @classmethod
    def parse(cls, given: Iterable[str]) -> "Filter":
        """A filter from arguments such as `name=send_mail`. Raises `HoldfastError` for an unknown or repeated name."""
        values: dict[str, str] = {}
        for text in given:
            name, equals, value = text.partition("=")
            if name not in cls.__slots__ or not equals or not value or name in values:
                raise HoldfastError(
                    f"{text!r} is no filter: use name=…, queue=…, error=… (a part of the reason), once each"
                )
            values[name] = value
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLeft:
    """The numbers of jobs that are not dead, in one queue or in all queues.

    The queue is drained when no job is due and no job runs. Jobs that are due later do not count, because a delayed job
    may be due only in a day.
    """

    due: int
    running: int
    later: int

    @property
    def is_drained(self) -> bool:
        return self.due + self.running == 0


async def list_dead(session: Session, *, which: Filter = Filter(), count: int = 100) -> list[JobRecord]:
    """The oldest `count` of the selected dead letters."""
    rows = await session.execute(STATEMENTS["list_dead"], {**asdict(which), "count": count})
    return [_record(row) for row in rows]


async def show(session: Session, job_id: int) -> JobRecord | None:
    """The job in any status, or None if the job has completed or never existed."""
    if not is_bigint(job_id):
        return None
    row = (await session.execute(STATEMENTS["show"], {"id": job_id})).one_or_none()
    return _record(row) if row is not None else None


async def replay(
    session: Session,
    *,
    job_id: int | None = None,
    which: Filter = Filter(),
    attempts: int = 3,
    dry_run: bool = False,
) -> Sequence[int]:
    """Make one dead letter (`job_id`), or all that `which` selects, ready again. Returns the ids of these jobs.

    Each job gets `attempts` more attempts. A dry run returns the ids and changes no job.
    """
    if job_id is not None and not is_bigint(job_id):
        return ()
    values = {"id": job_id, **asdict(which)}
    found: Sequence[int] = (await session.scalars(STATEMENTS["find_replayable"], values)).all()
    if found and not dry_run:
        queues = await session.scalars(STATEMENTS["replay"], {"ids": list(found), "attempts": attempts})
        for queue in set(queues):
            wake_after_commit(session, wakeup_channel(queue))
    return found


async def stats(session: Session) -> list[JobStats]:
    """One entry for each combination of queue, job name and status that has jobs."""
    return [JobStats(**row._mapping) for row in await session.execute(STATEMENTS["stats"])]  # noqa: SLF001  `_mapping` belongs to SQLAlchemy's documented interface


async def work_left(session: Session, *, queue: str | None = None) -> WorkLeft:
    """The numbers of jobs that are not dead, in `queue` or in all queues."""
    row = (await session.execute(STATEMENTS["work_left"], {"queue": queue})).one()
    return WorkLeft(due=row.due, running=row.running, later=row.later)


async def prune(session: Session, *, retention: float, count: int = 1000) -> None:
    """Delete up to `count` dead letters that were due more than `retention` seconds ago, and log their number."""
    pruned = (await session.execute(STATEMENTS["prune"], {"retention": retention, "count": count})).all()
    if pruned:
        log_after_commit(
            session, log.info, "dead_letters_pruned", jobs=len(pruned), newest=max(row.id for row in pruned)
        )


async def prune_failures(session: Session, *, retention: float, count: int = 20_000) -> None:
    """Delete up to `count` records of failed attempts that are older than `retention` seconds.

    This function is called every hour. The default `count` is more records than an outage produces in an hour.
    """
    await session.execute(STATEMENTS["prune_failures"], {"retention": retention, "count": count})


def _record(row: Row[Any]) -> JobRecord:
    return JobRecord(**row._mapping)  # noqa: SLF001  `_mapping` belongs to SQLAlchemy's documented interface
