"""Dead letters: the jobs that no attempt could save, for whoever has to decide about them.

Plain functions over a session, for the command line and the management port.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.errors import HoldfastError
from chassis.jobs.enqueueing import wakeup_channel
from chassis.jobs.statements import STATEMENTS
from chassis.logging import get_logger
from chassis.pooling import log_after_commit
from chassis.pooling.column_types import is_bigint
from chassis.pooling.wakeup import wake_after_commit

log = get_logger(__name__)

PRUNE_EVERY = 3600.0
"""Seconds: a thousand at a time, which no service has in an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as it stands in its table; `payload` is JSON text."""

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
    """How many jobs of one name are in one status; `oldest_age` is in seconds since the oldest was due."""

    queue: str
    name: str
    status: str
    jobs: int
    oldest_age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters: of a job's name, of a queue, with a text in their reason; None: whatever it is."""

    name: str | None = None
    queue: str | None = None
    error: str | None = None

    @classmethod
    def parse(cls, given: Iterable[str]) -> "Filter":
        """From `name=send_mail` and the like. Raises `HoldfastError` for what is no filter, or given twice."""
        values: dict[str, str] = {}
        for text in given:
            name, equals, value = text.partition("=")
            if name not in cls.__slots__ or not equals or not value or name in values:
                raise HoldfastError(f"{text!r} is no filter: once each name=…, queue=…, error=… (a part of the reason)")
            values[name] = value
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLeft:
    """Jobs of a queue, or of all, that are not dead. It is drained when none is due and none runs; what is due later
    waits for its time, a day perhaps, and is no reason to wait.
    """

    due: int
    running: int
    later: int

    @property
    def is_drained(self) -> bool:
        return self.due + self.running == 0


async def list_dead(session: AsyncSession, *, which: Filter = Filter(), count: int = 100) -> list[JobRecord]:
    """The oldest `count` dead letters of those."""
    rows = await session.execute(STATEMENTS["list_dead"], {**asdict(which), "count": count})
    return [_record(row) for row in rows]


async def show(session: AsyncSession, job_id: int) -> JobRecord | None:
    """One job in whatever status; None when it has completed or never was."""
    if not is_bigint(job_id):
        return None
    row = (await session.execute(STATEMENTS["show"], {"id": job_id})).one_or_none()
    return _record(row) if row is not None else None


async def replay(
    session: AsyncSession,
    *,
    job_id: int | None = None,
    which: Filter = Filter(),
    attempts: int = 3,
    dry_run: bool = False,
) -> Sequence[int]:
    """Make dead letters ready again, each with `attempts` attempts, and return their ids.

    One (`job_id`), or all of `which`. A dry run returns the ids and changes nothing.
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


async def stats(session: AsyncSession) -> list[JobStats]:
    """Every queue, job name and status that has jobs."""
    return [JobStats(**row._mapping) for row in await session.execute(STATEMENTS["stats"])]  # noqa: SLF001  public API


async def work_left(session: AsyncSession, *, queue: str | None = None) -> WorkLeft:
    """What is still to be done, in one queue or in all."""
    row = (await session.execute(STATEMENTS["work_left"], {"queue": queue})).one()
    return WorkLeft(due=row.due, running=row.running, later=row.later)


async def prune(session: AsyncSession, *, retention: float, count: int = 1000) -> None:
    """Forget dead letters that were due more than `retention` seconds ago, and say how many."""
    pruned = (await session.execute(STATEMENTS["prune"], {"retention": retention, "count": count})).all()
    if pruned:
        log_after_commit(
            session, log.info, "dead_letters_pruned", jobs=len(pruned), newest=max(row.id for row in pruned)
        )


async def prune_failures(session: AsyncSession, *, retention: float, count: int = 20_000) -> None:
    """Forget failed attempts of more than `retention` seconds ago: in an hour, more than an outage makes in one."""
    await session.execute(STATEMENTS["prune_failures"], {"retention": retention, "count": count})


def _record(row: Row[Any]) -> JobRecord:
    return JobRecord(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name, underscored to stay clear of columns
