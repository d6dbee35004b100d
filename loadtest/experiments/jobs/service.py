"""The process of the jobs experiment, which is killed: it signs people up and welcomes them, in three ways at once.

A welcome is written into the table `welcome` half-way through its work; each start of one is counted in Valkey.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from chassis.app.api import ApiResources, Router, opened
from chassis.config import Live
from chassis.config.settings import Group, ServiceSettings
from chassis.jobs import Handler, JobPayload, RunningJob, enqueue
from chassis.jobs.runner import JobRunner
from chassis.pooling import Database, Session, create_redis
from chassis.pooling.wakeup import Wakeups
from fastapi import Depends
from sqlalchemy import text

from experiments.jobs.naive import InProcessTasks
from experiments.lab.service import serve

type Way = Literal["task", "leases", "whole"]

_SIGN_UP = text("INSERT INTO signup (way, id) VALUES (:way, :id) ON CONFLICT DO NOTHING RETURNING id")
_WELCOME = text("INSERT INTO welcome (way, id) VALUES (:way, :id)")


class ServerSettings(Group):
    work_seconds: float = 0.2


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "lab"
    server: ServerSettings = ServerSettings()


class Welcome(JobPayload, job="welcome", queue="leases", max_attempts=20):
    signup_id: int


class WelcomeInOne(JobPayload, job="welcome_in_one", queue="whole", max_attempts=20):
    signup_id: int


JOBS: dict[Way, type[Welcome | WelcomeInOne]] = {"leases": Welcome, "whole": WelcomeInOne}


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcoming:
    """The work itself: half of it, the welcome, the other half."""

    database: Database
    redis: Any
    work_seconds: float

    async def in_a_task(self, signup_id: int) -> None:
        await self._begin("task", signup_id)
        await self._welcome("task", signup_id)
        await self._rest()

    async def as_a_job(self, _: RunningJob, payload: Welcome) -> None:
        """The welcome in a transaction of its own: a crash between it and the job's end repeats it."""
        await self._begin("leases", payload.signup_id)
        await self._welcome("leases", payload.signup_id)
        await self._rest()

    async def as_a_job_in_one_transaction(self, job: RunningJob, payload: WelcomeInOne) -> None:
        await self._begin("whole", payload.signup_id)
        await self._rest()
        async with self.database.transaction() as session:
            await _write(session, "whole", payload.signup_id)
            await job.complete_in(session)

    async def _begin(self, way: Way, signup_id: int) -> None:
        await self.redis.hincrby(f"runs:{way}", signup_id, 1)
        await asyncio.sleep(self.work_seconds / 2)

    async def _welcome(self, way: Way, signup_id: int) -> None:
        async with self.database.transaction() as session:
            await _write(session, way, signup_id)

    async def _rest(self) -> None:
        await asyncio.sleep(self.work_seconds / 2)


async def _write(session: Session, way: Way, signup_id: int) -> None:
    await session.execute(_WELCOME, {"way": way, "id": signup_id})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    database: Database
    tasks: InProcessTasks
    welcoming: Welcoming


router = Router()


@router.post("/signups/{signup_id}", public=True)
async def sign_up(signup_id: int, given: Annotated[Resources, Depends(opened(Resources))]) -> None:
    """Once each way: whoever was not answered may ask again."""
    if await _sign_up(given.database, "task", signup_id):
        given.tasks.start(partial(given.welcoming.in_a_task, signup_id))
    for way in JOBS:
        await _sign_up(given.database, way, signup_id)


async def _sign_up(database: Database, way: Way, signup_id: int) -> bool:
    """Sign them up, with their job if this way has one, in one transaction."""
    async with database.transaction() as session:
        is_new = await session.scalar(_SIGN_UP, {"way": way, "id": signup_id}) is not None
        if is_new and way in JOBS:
            await enqueue(session, JOBS[way](signup_id=signup_id))
    return is_new


@asynccontextmanager
async def open_resources(live: Live[Settings], base: ApiResources) -> AsyncIterator[Resources]:
    settings = live.current
    redis = create_redis(settings.redis, timeout=5, pool="runs")
    async with (
        Wakeups(settings.database, application_name="lab-worker") as wakeups,
        asyncio.TaskGroup() as tasks,
    ):
        database = Database(settings.database, pool="jobs", application_name="lab-worker")
        welcoming = Welcoming(database=database, redis=redis, work_seconds=settings.server.work_seconds)
        handlers: dict[type[JobPayload], Handler] = {
            Welcome: welcoming.as_a_job,
            WelcomeInOne: welcoming.as_a_job_in_one_transaction,
        }
        for kind, handler in handlers.items():
            of_queue = settings.jobs.model_copy(update={"queue": kind.options.queue})
            runner = JobRunner(database, {kind: handler}, of_queue, wakeups=wakeups, drain_timeout=1)
            tasks.create_task(runner.run(asyncio.Event()))
        yield Resources(database=base.database, tasks=InProcessTasks(), welcoming=welcoming)


if __name__ == "__main__":
    serve(Settings, [router], open_resources)
