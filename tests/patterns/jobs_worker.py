"""A small real worker process for test_jobs.py: `python jobs_worker.py`, settings from HOLDFAST_* variables.

What it does it writes into the table `effect`, where the tests read it.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import ClassVar

from chassis import config
from chassis.health import Health, management_app
from chassis.job_runner import Handler, JobRunner
from chassis.jobs import JobPayload, RunningJob
from chassis.pooling import Database
from chassis.settings import ServiceSettings
from chassis.wakeup import Wakeups
from chassis.worker import run_worker
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_EFFECT = text("INSERT INTO effect (job_id, attempt, pid, what) VALUES (:job_id, :attempt, :pid, :what)")
_IS_RELEASED = text("SELECT EXISTS (SELECT FROM effect WHERE what = 'release')")


class WorkerSettings(ServiceSettings):
    service_name: ClassVar[str] = "jobs-worker"


class Hold(JobPayload, job="hold", max_attempts=3):
    """Its first attempt lasts until the test releases it; any later one is done at once."""


class Crash(JobPayload, job="crash", max_attempts=2):
    """It ends the process."""


class Innocent(JobPayload, job="innocent", max_attempts=2):
    """It does nothing wrong: it takes until the test releases it, or an attempt that runs alone."""


async def write_effect(session: AsyncSession, job: RunningJob, what: str) -> None:
    await session.execute(_EFFECT, {"job_id": job.id, "attempt": job.attempt, "pid": os.getpid(), "what": what})


def handlers(database: Database) -> Mapping[type[JobPayload], Handler]:
    async def note(job: RunningJob, what: str) -> None:
        async with database.transaction() as session:
            await write_effect(session, job, what)

    async def wait_for_release() -> None:
        while True:
            async with database.read() as session:
                if await session.scalar(_IS_RELEASED):
                    return
            await asyncio.sleep(0.02)

    async def hold(job: RunningJob, _: Hold) -> None:
        await note(job, "started")
        if job.attempt == 1:
            await wait_for_release()
        async with database.transaction() as session:
            await write_effect(session, job, "done")
            await job.complete_in(session)

    async def crash(job: RunningJob, _: Crash) -> None:
        await note(job, "crashing")
        os._exit(9)

    async def innocent(job: RunningJob, _: Innocent) -> None:
        await note(job, "started")
        if job.attempt == 1:
            await wait_for_release()

    return {Hold: hold, Crash: crash, Innocent: innocent}


async def main() -> None:
    settings = config.load(WorkerSettings, ())
    wakeups = Wakeups(settings.database, application_name="jobs-worker")
    database = Database(settings.database, pool="jobs", application_name="jobs-worker", notify=wakeups.notify)
    jobs = JobRunner(
        database,
        handlers(database),
        settings.jobs,
        wakeups=wakeups,
        drain_timeout=settings.shutdown.drain_timeout,
    )
    health = Health({"database": database.ping})
    async with wakeups:
        await run_worker(
            settings, health=health, management=management_app(health, {}, token=lambda: None), stages=[[jobs.run]]
        )
    await database.close()


if __name__ == "__main__":
    asyncio.run(main())
