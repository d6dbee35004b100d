"""The process of the overload experiment: it accepts purchases, and its jobs finish them at a fixed rate."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from chassis.app.api import ApiResources, Router, opened
from chassis.app.api.backlog import Admission
from chassis.config import Live
from chassis.config.settings import BacklogSettings, Group, ServiceSettings
from chassis.jobs import JobPayload, RunningJob, enqueue
from chassis.jobs.runner import JobRunner
from chassis.pooling import Database
from chassis.pooling.statements import DriverStatement
from chassis.pooling.wakeup import Wakeups
from fastapi import Depends
from sqlalchemy import text

from experiments.lab.service import serve
from experiments.overload.naive import OpenDoor

BACKLOG = DriverStatement.of(
    "SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(placed_at)), 0)::float8 AS oldest_age, "
    "(SELECT count(*) FROM purchase WHERE done_at > now() - make_interval(secs => :window::float8)) AS done "
    "FROM (SELECT placed_at FROM purchase WHERE done_at IS NULL "
    "AND placed_at > now() - make_interval(secs => :excluded_age::float8) ORDER BY placed_at LIMIT :limit) AS open"
)
_PLACE = text("INSERT INTO purchase (id) VALUES (:id)")
_FINISH = text("UPDATE purchase SET done_at = clock_timestamp() WHERE id = :id")


class ServerSettings(Group):
    work_seconds: float = 0.5
    has_admission: bool = True


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "lab"
    server: ServerSettings = ServerSettings()
    backlog: BacklogSettings = BacklogSettings()


class Finish(JobPayload, job="finish"):
    purchase_id: int


async def finish(database: Database, work_seconds: float, job: RunningJob, payload: Finish) -> None:
    await asyncio.sleep(work_seconds)
    async with database.transaction() as session:
        await session.execute(_FINISH, {"id": payload.purchase_id})
        await job.complete_in(session)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    database: Database
    door: Admission | OpenDoor


router = Router()


@router.post("/purchases/{purchase_id}", public=True, status_code=201)
async def place(purchase_id: int, given: Annotated[Resources, Depends(opened(Resources))]) -> None:
    if (refusal := given.door.refusal()) is not None:
        raise refusal
    async with given.database.transaction() as session:
        await session.execute(_PLACE, {"id": purchase_id})
        await enqueue(session, Finish(purchase_id=purchase_id))


@asynccontextmanager
async def open_resources(live: Live[Settings], base: ApiResources) -> AsyncIterator[Resources]:
    settings = live.current
    async with (
        Wakeups(settings.database, application_name="lab-worker") as wakeups,
        asyncio.TaskGroup() as tasks,
    ):
        database = Database(settings.database, pool="jobs", application_name="lab-worker")
        handler = partial(finish, database, settings.server.work_seconds)
        runner = JobRunner(database, {Finish: handler}, settings.jobs, wakeups=wakeups, drain_timeout=1)
        tasks.create_task(runner.run(asyncio.Event()))
        if not settings.server.has_admission:
            yield Resources(database=base.database, door=OpenDoor())
            return
        admission = Admission(base.health, BACKLOG, lambda: live.current.backlog)
        async with admission.measuring():
            yield Resources(database=base.database, door=admission)


if __name__ == "__main__":
    serve(Settings, [router], open_resources)
