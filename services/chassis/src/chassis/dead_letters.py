"""Dead letters: the jobs that no attempt could save, for whoever has to decide about them.

Plain functions over a session, for the command line and the management port.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.jobs import STATEMENTS, wakeup_channel
from chassis.wakeup import wake_after_commit


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


async def list_dead(session: AsyncSession, *, name: str | None = None, count: int = 100) -> list[JobRecord]:
    """The oldest `count` dead letters, of one job name or of all."""
    rows = await session.execute(STATEMENTS["list_dead"], {"name": name, "count": count})
    return [_record(row) for row in rows]


async def show(session: AsyncSession, job_id: int) -> JobRecord | None:
    """One job in whatever status; None when it has completed or never was."""
    row = (await session.execute(STATEMENTS["show"], {"id": job_id})).one_or_none()
    return _record(row) if row is not None else None


async def replay(
    session: AsyncSession,
    *,
    job_id: int | None = None,
    name: str | None = None,
    attempts: int = 3,
    dry_run: bool = False,
) -> Sequence[int]:
    """Make dead letters ready again, each with `attempts` attempts, and return their ids.

    One (`job_id`), those of a name, or all. A dry run returns the ids and changes nothing.
    """
    found: Sequence[int] = (await session.scalars(STATEMENTS["find_replayable"], {"id": job_id, "name": name})).all()
    if found and not dry_run:
        queues = await session.scalars(STATEMENTS["replay"], {"ids": list(found), "attempts": attempts})
        for queue in set(queues):
            wake_after_commit(session, wakeup_channel(queue))
    return found


async def stats(session: AsyncSession) -> list[JobStats]:
    """Every queue, job name and status that has jobs."""
    return [JobStats(**row._mapping) for row in await session.execute(STATEMENTS["stats"])]  # noqa: SLF001  public API


def _record(row: Row[Any]) -> JobRecord:
    return JobRecord(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name, underscored to stay clear of columns
