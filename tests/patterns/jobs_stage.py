"""What the tests of jobs have in common: a job, a runner at work, a worker process, and what became of a job."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from backends import RealServer
from chassis.config.settings import DatabaseSettings, JobSettings
from chassis.jobs import Handler, JobPayload, enqueue
from chassis.jobs.runner import JobRunner
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from holdfast_local.ports import free_port
from service_process import database_variables
from sqlalchemy import Row, text
from waiting import eventually

QUICK = JobSettings(concurrency=4, lease=0.6, poll_interval=0.05, backoff_base=0.01, backoff_cap=0.02)


class Ship(JobPayload, job="ship", max_attempts=3):
    order: int = 1


TURNS = "turn", "turn_oldest"
TURN = {"queue": "default", "worker": "test", "lease": 15.0, "suspects": False, "alone": False, "lookback": None}


async def add(database: Database, payload: JobPayload, **options: Any) -> int:
    async with database.transaction() as session:
        assert await enqueue(session, payload, **options)
        job_id: int = (await session.execute(text("SELECT max(id) FROM job"))).scalar_one()
    return job_id


async def find(database: Database, job_id: int) -> Row[Any] | None:
    async with database.read() as session:
        rows = await session.execute(text("SELECT * FROM job WHERE id = :id"), {"id": job_id})
        return rows.one_or_none()


async def status(database: Database, job_id: int) -> str:
    """ready, running, dead, or gone: a completed job leaves no row."""
    row = await find(database, job_id)
    return row.status if row is not None else "gone"


async def reaches(database: Database, job_id: int, wanted: str) -> None:
    async def look() -> bool:
        return await status(database, job_id) == wanted

    await eventually(look)


@asynccontextmanager
async def running(
    database: Database,
    wakeups: Wakeups,
    handlers: Mapping[type[JobPayload], Handler],
    settings: JobSettings = QUICK,
    *,
    drain_timeout: float = 10,
    random: Callable[[], float] = lambda: 1.0,
) -> AsyncIterator[JobRunner]:
    """A runner at work; the end of the block stops it as SIGTERM does."""
    runner = JobRunner(database, handlers, settings, wakeups=wakeups, drain_timeout=drain_timeout, random=random)
    stopping = asyncio.Event()
    task = asyncio.create_task(runner.run(stopping))
    try:
        yield runner
    finally:
        stopping.set()
        await task


CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
"""Ends every connection to a database but this one."""


@asynccontextmanager
async def refusing(postgres: RealServer, name: str) -> AsyncIterator[None]:
    """The server ends every connection and takes no other, until the block ends."""
    server = await asyncpg.connect(postgres.dsn)
    await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await server.execute(CUT, name)
    try:
        yield
    finally:
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await server.close()


@asynccontextmanager
async def worker(settings: DatabaseSettings, *, drain_timeout: float = 5, lease: float = 0.6) -> AsyncIterator[Process]:
    """A worker process; the end of the block kills it if it still runs."""
    environment = {
        **database_variables(settings),
        "HOLDFAST_MANAGEMENT__PORT": str(free_port()),
        "HOLDFAST_JOBS__LEASE": str(lease),
        "HOLDFAST_JOBS__POLL_INTERVAL": "0.1",
        "HOLDFAST_SHUTDOWN__DRAIN_TIMEOUT": str(drain_timeout),
    }
    script = Path(__file__).with_name("jobs_worker.py")
    process = await asyncio.create_subprocess_exec(sys.executable, script, env=environment)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def effect(effects: asyncpg.Connection, what: str, **wanted: int) -> asyncpg.Record:
    async def look() -> asyncpg.Record | None:
        conditions = "".join(f" AND {column} = {value}" for column, value in wanted.items())
        return await effects.fetchrow(f"SELECT * FROM effect WHERE what = $1{conditions}", what)

    return await eventually(look)
