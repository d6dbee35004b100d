"""Schedules: work that recurs, by one process at a time, and that outlives a database that is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from captured_logs import captured_logs
from chassis.jobs import JobPayload, enqueue
from chassis.pooling import Database
from chassis.schedules import Schedule, Scheduler, runs
from chassis.settings import DatabaseSettings
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from waiting import eventually

EVERY = 0.01


class Found(JobPayload, job="found"):
    """What a run writes in these tests."""


pytestmark = pytest.mark.timeout(20)


class Recorder:
    """A schedule's work: counts its runs and those that were under way at once, and may be held up."""

    def __init__(self, name: str = "test", *, every: float = EVERY) -> None:
        self.schedule = Schedule(name=name, every=every, run=self.run)
        self.begun = self.finished = self.at_once = self.most_at_once = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def run(self, session: AsyncSession) -> None:
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await session.execute(text("SELECT 1"))
            await self.may_go_on.wait()
        finally:
            self.at_once -= 1
        self.finished += 1

    async def has_begun(self, times: int = 1) -> None:
        async def look() -> bool:
            return self.begun >= times

        await eventually(look)


@asynccontextmanager
async def running(database: Database, *schedules: Schedule, chance: float = 0.0) -> AsyncIterator[asyncio.Event]:
    """A worker's scheduler at work; yields what stops it."""
    stopping = asyncio.Event()
    task = asyncio.create_task(Scheduler(database, schedules, chance=lambda: chance).run(stopping))
    try:
        yield stopping
    finally:
        stopping.set()
        await task


async def seen(outcome: str, name: str = "test") -> float:
    return runs.labels(name, outcome)._value.get()


async def test_work_recurs_until_it_is_stopped_and_not_after(database: Database) -> None:
    recorder, done = Recorder(), await seen("done")
    async with running(database, recorder.schedule):
        await recorder.has_begun(3)
    finished = recorder.finished
    assert finished == recorder.begun >= 3
    assert await seen("done") == done + finished


async def test_what_a_run_writes_is_committed_with_its_end(database: Database) -> None:
    counted: list[int] = []

    async def write(session: AsyncSession) -> None:
        await enqueue(session, Found())
        counted.append(await _jobs(database))  # by another connection, which sees what is committed

    async with running(database, Schedule(name="test", every=EVERY, run=write)):
        await eventually(lambda: _has(counted, 3))
    assert counted == list(range(len(counted)))


async def test_a_run_that_fails_leaves_nothing_and_the_next_one_comes(database: Database) -> None:
    begun = 0

    async def fail_once(session: AsyncSession) -> None:
        nonlocal begun
        begun += 1
        await enqueue(session, Found())
        if begun == 1:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    failed = await seen("failed")
    with captured_logs() as logs:
        async with running(database, Schedule(name="test", every=EVERY, run=fail_once)):
            await eventually(lambda: _jobs(database))
    assert logs.of("schedule_failed")[0]["schedule"] == "test"
    assert await seen("failed") == failed + 1
    assert await _jobs(database) == begun - 1


async def test_a_database_that_is_away_is_waited_for(database_settings: DatabaseSettings) -> None:
    away = Database(
        database_settings.model_copy(update={"port": 1, "connect_timeout": 0.2}), pool="away", application_name="test"
    )
    before = await seen("failed")

    async def has_failed_twice() -> bool:
        return await seen("failed") >= before + 2

    recorder = Recorder()
    async with running(away, recorder.schedule):
        await eventually(has_failed_twice)
    assert recorder.begun == 0
    await away.close()


@pytest.mark.parametrize("statement", ["SELECT no_such_column", None], ids=["statement", "code"])
async def test_a_bug_ends_the_worker_rather_than_being_repeated_for_ever(
    database: Database, statement: str | None
) -> None:
    async def fail(session: AsyncSession) -> None:
        if statement is None:
            raise ZeroDivisionError
        await session.execute(text(statement))

    scheduler = Scheduler(database, [Schedule(name="test", every=EVERY, run=fail)], chance=lambda: 0.0)
    with pytest.raises(ExceptionGroup) as raised:
        await scheduler.run(asyncio.Event())
    assert len(raised.value.exceptions) == 1


async def test_of_several_workers_one_at_a_time_runs_a_schedule(
    database: Database, database_settings: DatabaseSettings
) -> None:
    other = Database(database_settings, pool="other", application_name="test")
    recorder, elsewhere = Recorder(), await seen("elsewhere")
    recorder.may_go_on.clear()

    async def has_met_the_lock() -> bool:
        return await seen("elsewhere") > elsewhere

    async with running(database, recorder.schedule), running(other, recorder.schedule):
        await recorder.has_begun()
        await eventually(has_met_the_lock)
        recorder.may_go_on.set()
        await recorder.has_begun(5)
    assert recorder.most_at_once == 1
    await other.close()


async def test_a_worker_that_dies_in_a_run_leaves_the_schedule_to_another(
    database: Database, database_settings: DatabaseSettings
) -> None:
    dying, other = Database(database_settings, pool="dying", application_name="dying"), Recorder()
    stuck = Recorder()
    stuck.may_go_on.clear()
    async with running(dying, stuck.schedule) as stopping, running(database, other.schedule):
        await stuck.has_begun()
        await eventually(lambda: _changes("elsewhere"))
        assert other.begun == 0
        async with database.transaction() as session:
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dying'"
            await session.execute(text(kill))
        await other.has_begun(2)
        stopping.set()
        stuck.may_go_on.set()
    await dying.close()


async def test_a_long_run_of_one_schedule_holds_up_no_other(database: Database) -> None:
    slow, quick = Recorder("slow"), Recorder("quick")
    slow.may_go_on.clear()
    async with running(database, slow.schedule, quick.schedule):
        await slow.has_begun()
        await quick.has_begun(3)
        assert slow.finished == 0
        slow.may_go_on.set()


async def test_a_run_under_way_is_finished_before_the_scheduler_ends(database: Database) -> None:
    recorder = Recorder()
    recorder.may_go_on.clear()
    stopping = asyncio.Event()
    task = asyncio.create_task(Scheduler(database, [recorder.schedule], chance=lambda: 0.0).run(stopping))
    await recorder.has_begun()
    stopping.set()
    await asyncio.sleep(0)
    assert not task.done()
    recorder.may_go_on.set()
    await task
    assert (recorder.begun, recorder.finished) == (1, 1)


async def test_a_scheduler_that_waits_for_its_next_run_stops_at_once(database: Database) -> None:
    waiting_to_begin, waiting_again = Recorder("first", every=3600), Recorder("second", every=3600)
    async with asyncio.timeout(5):
        async with running(database, waiting_to_begin.schedule, chance=0.5):
            pass
        async with running(database, waiting_again.schedule):
            await waiting_again.has_begun()
    assert (waiting_to_begin.begun, waiting_again.begun) == (0, 1)


async def _jobs(database: Database) -> int:
    async with database.read() as session:
        return int(await session.scalar(text("SELECT count(*) FROM job")) or 0)


async def _has(found: list[int], times: int) -> bool:
    return len(found) >= times


async def _changes(outcome: str) -> bool:
    before = await seen(outcome)

    async def look() -> bool:
        return await seen(outcome) > before

    return await eventually(look)
