"""Jobs that kill or hang their worker, in a real process that is started again whenever it ends.

Each ends in the dead letters once it has used up its attempts alone, and no innocent job dies of it.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings
from chassis.jobs import JobPayload, enqueue
from chassis.pooling import Database
from holdfast_local.ports import free_port
from service_process import database_variables
from sqlalchemy import text
from waiting import eventually

sys.path.append(str(Path(__file__).parents[1] / "patterns"))
from jobs_worker import Block, Crash, Innocent, Swallow

WORKER = Path(__file__).parents[1] / "patterns" / "jobs_worker.py"
MEMORY_LIMIT = 1_500_000_000
"""Bytes of address space: several times what the worker needs, and less than what the job asks for."""


@asynccontextmanager
async def supervised_worker(settings: DatabaseSettings) -> AsyncIterator[list[int]]:
    """A worker that is started again each time it ends, as a kubelet does; yields the exit codes so far."""
    environment = {
        **database_variables(settings),
        "HOLDFAST_JOBS__LEASE": "1",
        "HOLDFAST_JOBS__LOOP_LIMIT": "2.5",
        "HOLDFAST_JOBS__POLL_INTERVAL": "0.1",
        "MEMORY_LIMIT": str(MEMORY_LIMIT),
    }
    codes: list[int] = []
    process: asyncio.subprocess.Process | None = None

    async def supervise() -> None:
        nonlocal process
        while True:
            port = {"HOLDFAST_MANAGEMENT__PORT": str(free_port())}
            process = await asyncio.create_subprocess_exec(sys.executable, WORKER, env=environment | port)
            codes.append(await process.wait())

    task = asyncio.create_task(supervise())
    try:
        yield codes
    finally:
        task.cancel()
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("poison", [Crash, Swallow, Block])
async def test_a_poison_job_ends_dead_after_its_attempts_and_takes_no_innocent_along(
    database: Database, database_settings: DatabaseSettings, postgres: RealServer, poison: type[JobPayload]
) -> None:
    admin = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    await admin.execute("CREATE TABLE effect (job_id bigint, attempt int, pid int, what text)")
    await admin.execute("GRANT SELECT, INSERT ON effect TO PUBLIC")
    async with database.transaction() as session:
        for _ in range(4):
            await enqueue(session, Innocent())
        await enqueue(session, poison())

    async def only_the_poison_is_left() -> bool:
        rows = await admin.fetch("SELECT name, status FROM job")
        return [(row["name"], row["status"]) for row in rows] == [(poison.options.name, "dead")]

    async with supervised_worker(database_settings) as codes:
        await eventually(only_the_poison_is_left, seconds=120)
    async with database.read() as session:
        row = (await session.execute(text("SELECT attempt, max_attempts, last_error FROM job"))).one()
    assert (row.attempt, row.max_attempts) == (4, 4)
    assert "the lease of attempt 4 expired" in row.last_error
    assert len(codes) == 4  # beside the innocent ones, as the one suspect among them, and both its attempts alone
    runs = await admin.fetch("SELECT attempt FROM effect WHERE what = 'poison'")
    assert sorted(run["attempt"] for run in runs) == [1, 2, 3, 4]
    await admin.close()
