"""An outage of the database costs no job an attempt, makes none a suspect, and ends no worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings
from chassis.errors import DatabaseBusy, DatabaseUnreachable
from chassis.jobs import RunningJob
from chassis.jobs.decisions import MAX_GRANTED_ATTEMPT, decide_failure
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from jobs_stage import CUT, QUICK, Ship, add, find, reaches, refusing, running
from sqlalchemy import Row, text
from waiting import eventually


@asynccontextmanager
async def read_only(postgres: RealServer, name: str) -> AsyncIterator[None]:
    """As a standby, or an operator's switch: what is written fails."""
    server = await asyncpg.connect(postgres.dsn)
    await server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await server.execute(CUT, name)
    try:
        yield
    finally:
        await server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await server.execute(CUT, name)
        await server.close()


@asynccontextmanager
async def full_disk(postgres: RealServer, name: str) -> AsyncIterator[None]:
    """What is written to jobs fails as it does on a disk without space."""
    server = await asyncpg.connect(postgres.dsn, database=name)
    await server.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
    )
    await server.execute(
        "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE OR DELETE ON job EXECUTE FUNCTION full_disk()"
    )
    try:
        yield
    finally:
        await server.execute("DROP TRIGGER full_disk ON job")
        await server.close()


async def fetch(postgres: RealServer, name: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(postgres.dsn, database=name)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(query)
        return rows
    finally:
        await connection.close()


OUTAGES = [refusing, read_only, full_disk]


def attempts_left(row: Row[Any]) -> int:
    left: int = row.max_attempts - row.attempt
    return left


@pytest.mark.parametrize("outage", OUTAGES)
async def test_jobs_under_way_in_an_outage_beyond_their_lease_are_run_again_as_if_nothing_had_been(
    database: Database,
    wakeups: Wakeups,
    database_settings: DatabaseSettings,
    postgres: RealServer,
    outage: Any,
) -> None:
    under_way, cancelled = set[int](), set[int]()
    is_over = asyncio.Event()
    before: list[int] = []

    async def ship(job: RunningJob, _payload: Ship) -> None:
        if is_over.is_set():
            row = await find(database, job.id)
            assert row is not None
            assert not row.is_suspect
            before.append(attempts_left(row))
            return
        under_way.add(job.id)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.add(job.id)

    async def all_are_under_way() -> bool:
        return len(under_way) == QUICK.concurrency

    async def all_are_cancelled() -> bool:
        return cancelled == under_way

    async def all_are_gone() -> bool:
        return await fetch(postgres, database_settings.name, "SELECT FROM job") == []

    for _ in range(QUICK.concurrency):
        await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}):
        await eventually(all_are_under_way)
        async with outage(postgres, database_settings.name):
            await eventually(all_are_cancelled)  # their leases have run out
            is_over.set()
        await eventually(all_are_gone)
    assert before == [2] * QUICK.concurrency  # of three: as on the first attempt


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_attempt_that_fails_of_the_outage_does_not_count(
    database: Database,
    wakeups: Wakeups,
    database_settings: DatabaseSettings,
    postgres: RealServer,
    outage: Any,
) -> None:
    is_over, has_failed = asyncio.Event(), asyncio.Event()
    started = asyncio.Event()
    left: list[int] = []

    async def ship(job: RunningJob, _payload: Ship) -> None:
        started.set()
        if job.attempt == 1:
            await is_over.wait()
        try:
            async with database.transaction() as session:
                await session.execute(text("UPDATE job SET debug = debug WHERE id = :id"), {"id": job.id})
                await job.complete_in(session)
        except DatabaseUnreachable:
            has_failed.set()
            raise
        left.append(job.max_attempts - job.attempt)

    job_id = await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}, QUICK.model_copy(update={"lease": 20, "loop_limit": 60})):
        await asyncio.wait_for(started.wait(), 10)
        async with outage(postgres, database_settings.name):
            is_over.set()
            await asyncio.wait_for(has_failed.wait(), 10)
        await reaches(database, job_id, "gone")
    assert left == [2]


async def test_a_failure_is_recorded_when_the_outage_is_over(
    database: Database, wakeups: Wakeups, database_settings: DatabaseSettings, postgres: RealServer
) -> None:
    """Or the job would wait for the end of its lease, and its next attempt with it."""
    in_outage, runs = asyncio.Event(), list[int]()

    async def ship(job: RunningJob, _payload: Ship) -> None:
        runs.append(job.attempt)
        if job.attempt == 1:
            await in_outage.wait()
            raise ConnectionError("the provider is away")

    async def is_tried_again() -> bool:
        return len(runs) == 2

    await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}, QUICK.model_copy(update={"lease": 50, "loop_limit": 60})):
        await eventually(lambda: _is_true(len(runs) == 1))
        async with refusing(postgres, database_settings.name):
            in_outage.set()
            await asyncio.sleep(0.5)  # it has tried to record the failure
        await eventually(is_tried_again)
    errors = await fetch(postgres, database_settings.name, "SELECT error FROM job_failure")
    assert [row["error"] for row in errors] == ["ConnectionError: the provider is away"]


async def _is_true(value: bool) -> bool:  # noqa: FBT001
    return value


def attempt(number: int, *, of: int = 3) -> RunningJob:
    return RunningJob(id=1, name="ship", attempt=number, max_attempts=of)


def test_at_its_last_attempt_an_outage_is_granted_another_and_a_busy_database_is_not() -> None:
    away, busy = DatabaseUnreachable("jobs", "the disk is full"), DatabaseBusy("jobs", "it took too long")
    granted = decide_failure(attempt(3), away, lambda: 1.0)
    assert (granted.statement, granted.values["granted"]) == ("retry", 1)
    assert decide_failure(attempt(3), busy, lambda: 1.0).statement == "bury"
    assert decide_failure(attempt(2), busy, lambda: 1.0).values["granted"] == 0


def test_a_job_that_is_itself_the_outage_dies_in_the_end() -> None:
    away = DatabaseUnreachable("jobs", "the connection was lost")
    last = MAX_GRANTED_ATTEMPT
    assert decide_failure(attempt(last - 1, of=last - 1), away, lambda: 1.0).statement == "retry"
    assert decide_failure(attempt(last, of=last), away, lambda: 1.0).statement == "bury"
