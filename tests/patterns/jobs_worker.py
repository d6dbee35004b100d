"""A small real worker process for test_jobs.py: `python jobs_worker.py`, settings from HOLDFAST_* variables.

What it does it writes into the table `effect`, where the tests read it.
"""

import asyncio
import os
import resource
import signal
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from chassis import config
from chassis.app.worker.serving import serve_stages
from chassis.config.settings import ServiceSettings
from chassis.jobs import Handler, JobPayload, RunningJob
from chassis.jobs.runner import JobRunner
from chassis.pooling import Database, Session
from chassis.pooling.wakeup import Wakeups
from chassis.process import watchdog
from chassis.process.ending import Ending
from chassis.process.health import Health
from chassis.process.management_app import management_app
from sqlalchemy import text

_EFFECT = text("INSERT INTO effect (job_id, attempt, pid, what) VALUES (:job_id, :attempt, :pid, :what)")
_IS_RELEASED = text("SELECT EXISTS (SELECT FROM effect WHERE what = 'release')")


class WorkerSettings(ServiceSettings):
    service_name: ClassVar[str] = "jobs-worker"


class Hold(JobPayload, job="hold", max_attempts=3):
    """Its first attempt lasts until the test releases it; any later one is done at once."""


class Slow(JobPayload, job="slow", max_attempts=3):
    """Each attempt lasts until the test releases it."""


class Urgent(JobPayload, job="urgent", priority=100):
    """It is done at once."""


class Crash(JobPayload, job="crash", max_attempts=2):
    """It ends the process."""


class Swallow(JobPayload, job="swallow", max_attempts=2):
    """It takes more memory than its process may have, which then ends as if the kernel had killed it."""


class Block(JobPayload, job="block", max_attempts=2):
    """It holds the event loop and never lets go: no heartbeat, no probe, no signal gets through."""


class Innocent(JobPayload, job="innocent", max_attempts=1):
    """It does nothing wrong: its first attempt takes until the test releases it, and later ones are done at once."""


async def write_effect(session: Session, job: RunningJob, what: str) -> None:
    await session.execute(_EFFECT, {"job_id": job.id, "attempt": job.attempt, "pid": os.getpid(), "what": what})


async def note(database: Database, job: RunningJob, what: str) -> None:
    async with database.transaction() as session:
        await write_effect(session, job, what)


async def wait_for_release(database: Database) -> None:
    while True:
        async with database.read() as session:
            if await session.scalar(_IS_RELEASED):
                return
        await asyncio.sleep(0.02)


async def hold(database: Database, job: RunningJob, _: Hold) -> None:
    await note(database, job, "started")
    if job.attempt == 1:
        await wait_for_release(database)
    async with database.transaction() as session:
        await write_effect(session, job, "done")
        await job.complete_in(session)


async def slow(database: Database, job: RunningJob, _: Slow) -> None:
    await note(database, job, "started")
    await wait_for_release(database)


async def urgent(database: Database, job: RunningJob, _: Urgent) -> None:
    await note(database, job, "done")


async def crash(database: Database, job: RunningJob, _: Crash) -> None:
    await note(database, job, "poison")
    os._exit(9)


async def swallow(database: Database, job: RunningJob, _: Swallow) -> None:
    await note(database, job, "poison")
    try:
        bytearray(int(os.environ["MEMORY_LIMIT"]))
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)  # what a container's limit does


async def block(database: Database, job: RunningJob, _: Block) -> None:
    await note(database, job, "poison")
    while True:
        pass


async def innocent(database: Database, job: RunningJob, _: Innocent) -> None:
    await note(database, job, "started")
    if job.attempt == 1:
        await wait_for_release(database)


def handlers(database: Database) -> Mapping[type[JobPayload], Handler]:
    by_kind = {
        Hold: hold,
        Slow: slow,
        Urgent: urgent,
        Crash: crash,
        Swallow: swallow,
        Block: block,
        Innocent: innocent,
    }
    return {kind: partial(handler, database) for kind, handler in by_kind.items()}


async def main(ending: Ending) -> None:
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
    async with wakeups, watchdog.watching(settings.jobs.loop_limit):
        await serve_stages(
            settings,
            ending=ending,
            health=health,
            management=management_app(health, {}, token=lambda: None),
            stages=[[jobs.run]],
        )
    await database.close()


if __name__ == "__main__":
    if limit := int(os.environ.get("MEMORY_LIMIT", "0")):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    asyncio.run(main(Ending()))
