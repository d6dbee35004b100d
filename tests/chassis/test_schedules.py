"""Schedules: work that recurs, by one process at a time, and that outlives a database that is away."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from backends import RealServer
from captured_logs import captured_logs
from chassis.config.settings import DatabaseSettings
from chassis.jobs import JobPayload, enqueue
from chassis.jobs.schedules import Missed, Plan, Schedule, Scheduler, missed_runs, plan, runs
from chassis.pooling import Database, Session
from pydantic import TypeAdapter
from sqlalchemy import text
from waiting import eventually

EVERY = 0.01


class Found(JobPayload, job="found"):
    """What a run writes in these tests."""


class Recorder:
    """A schedule's work: counts its runs and those that were under way at once, and may be held up."""

    def __init__(self, name: str = "test", *, every: float = EVERY) -> None:
        self.schedule = Schedule(name=name, every=every, run=self.run)
        self.begun = self.finished = self.at_once = self.most_at_once = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def run(self, session: Session) -> None:
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
async def running(database: Database, *schedules: Schedule, draw: float = 0.0) -> AsyncIterator[asyncio.Event]:
    """A worker's scheduler at work; yields what stops it."""
    stopping = asyncio.Event()
    task = asyncio.create_task(Scheduler(database, schedules, random=lambda: draw).run(stopping))
    try:
        yield stopping
    finally:
        stopping.set()
        await task


async def seen(outcome: str, name: str = "test") -> float:
    return float(runs.labels(name, outcome)._value.get())


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def never(_session: Session) -> None: ...


def hourly(missed: Missed, *, limit: int = 10) -> Schedule:
    return Schedule(name="test", every=3600, run=never, missed=missed, catch_up_limit=limit)


@pytest.mark.parametrize("missed", ["skip", "once", "catch_up"])
def test_a_run_is_due_from_its_time_on_and_the_next_one_an_interval_later(missed: Missed) -> None:
    early = plan(hourly(missed), next_at=NOON, now=NOON - timedelta(seconds=1))
    on_time = plan(hourly(missed), next_at=NOON, now=NOON)
    a_bit_late = plan(hourly(missed), next_at=NOON, now=NOON + timedelta(seconds=50))
    assert early == Plan(is_due=False, next_at=NOON)
    assert on_time == a_bit_late == Plan(is_due=True, next_at=NOON + HOUR)


def test_who_skips_missed_runs_waits_for_the_next_due_time() -> None:
    late = plan(hourly("skip"), next_at=NOON, now=NOON + timedelta(minutes=2))
    after_an_outage = plan(hourly("skip"), next_at=NOON, now=NOON + 3.5 * HOUR)
    just_in_time = plan(hourly("skip"), next_at=NOON, now=NOON + 3 * HOUR)
    assert late == Plan(is_due=False, next_at=NOON + HOUR, left_out=1)
    assert after_an_outage == Plan(is_due=False, next_at=NOON + 4 * HOUR, left_out=4)
    assert just_in_time == Plan(is_due=True, next_at=NOON + 4 * HOUR, left_out=3)


def test_a_run_counts_as_missed_half_an_interval_late_where_that_is_less_than_a_minute() -> None:
    every_minute = Schedule(name="test", every=60, run=never, missed="skip")
    in_time = plan(every_minute, next_at=NOON, now=NOON + timedelta(seconds=29))
    late = plan(every_minute, next_at=NOON, now=NOON + timedelta(seconds=31))
    assert (in_time.is_due, late.is_due) == (True, False)


def test_who_runs_once_makes_one_run_for_all_that_were_missed() -> None:
    assert plan(hourly("once"), next_at=NOON, now=NOON + 3.5 * HOUR) == Plan(
        is_due=True, next_at=NOON + 4 * HOUR, left_out=3
    )


def test_who_catches_up_makes_each_run_up_to_the_limit() -> None:
    made, left_out, next_at = 0, 0, NOON
    while (planned := plan(hourly("catch_up", limit=3), next_at=next_at, now=NOON + 5.5 * HOUR)).is_due:
        made, left_out, next_at = made + 1, left_out + planned.left_out, planned.next_at
    assert (made, left_out, next_at) == (3, 3, NOON + 6 * HOUR)


async def test_after_an_outage_a_schedule_does_as_its_policy_says(database: Database) -> None:
    recorders = {missed: Recorder(missed) for missed in ("skip", "once", "catch_up")}
    policies: dict[str, Missed] = {"skip": "skip", "once": "once", "catch_up": "catch_up"}
    schedules = [
        Schedule(name=name, every=3600, run=recorder.run, missed=policies[name], catch_up_limit=4)
        for name, recorder in recorders.items()
    ]
    async with database.transaction() as session:
        away = "INSERT INTO schedule SELECT unnest(CAST(:names AS text[])), now() - interval '5 hours 30 minutes'"
        await session.execute(text(away), {"names": list(recorders)})
    left_out = missed_runs.labels("catch_up")._value.get()

    async def all_have_moved_on() -> bool:
        async with database.read() as session:
            return await session.scalar(text("SELECT min(next_at) > now() FROM schedule")) is True

    with captured_logs() as logs:
        async with running(database, *schedules):
            await eventually(all_have_moved_on)
    assert {name: recorder.finished for name, recorder in recorders.items()} == {"skip": 0, "once": 1, "catch_up": 4}
    assert missed_runs.labels("catch_up")._value.get() == left_out + 2
    told = {line["schedule"]: line["left_out"] for line in logs.of("schedule_runs_missed")}
    assert told == {"skip": 6, "once": 5, "catch_up": 2}


async def test_the_first_run_is_somewhere_in_the_first_interval_and_is_checked_for_once_a_minute(
    database: Database,
) -> None:
    daily = Schedule(name="daily", every=86_400, run=never)
    scheduler = Scheduler(database, [daily], random=lambda: 0.5)
    waits = [await scheduler._check(daily), await scheduler._check(daily)]
    async with database.read() as session:
        first = await session.scalar(text("SELECT extract(epoch FROM next_at - now())::float8 FROM schedule"))
    assert first == pytest.approx(43_200, abs=60)
    assert waits == [60, 60]


async def _start_process(settings: DatabaseSettings, *, takes: float = 0.0) -> Process:
    password = settings.password.get_secret_value()
    shown = TypeAdapter(DatabaseSettings).dump_json(settings, include={"host", "port", "name", "user"}).decode()
    return await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name("schedule_process.py"),
        env={"PATH": os.environ["PATH"], "DATABASE": shown, "DATABASE_PASSWORD": password, "TAKES": str(takes)},
    )


async def test_of_two_processes_one_makes_each_run_and_the_other_goes_on_when_it_is_killed_in_one(
    database: Database, database_settings: DatabaseSettings, fresh_table_made: None
) -> None:
    async def made(*, by: Process | None = None) -> int:
        query = "SELECT count(*) FROM made" + (f" WHERE pid = {by.pid}" if by else "")
        async with database.read() as session:
            return int(await session.scalar(text(query)) or 0)

    async def is_locked() -> bool:
        query = "SELECT NOT EXISTS (SELECT FROM (SELECT FROM schedule FOR UPDATE SKIP LOCKED) AS free)"
        async with database.read() as session:
            exists = await session.scalar(text("SELECT EXISTS (SELECT FROM schedule)"))
            return bool(exists and await session.scalar(text(query)))

    stuck = await _start_process(database_settings, takes=3600)
    others: list[Process] = []
    try:
        await eventually(is_locked)
        others = [await _start_process(database_settings) for _ in range(2)]
        assert await made() == 0
        stuck.kill()

        async def both_have_made_some() -> bool:
            return await made() >= 10

        await eventually(both_have_made_some)
    finally:
        for process in (stuck, *others):
            if process.returncode is None:
                process.kill()
            await process.wait()
    async with database.read() as session:
        twice = await session.scalar(text("SELECT count(*) - count(DISTINCT due_at) FROM made"))
    assert twice == 0
    assert await made(by=stuck) == 0


@pytest.fixture
async def fresh_table_made(database_settings: DatabaseSettings, postgres: RealServer) -> None:
    """The table `made`: which due time was served, and by which process."""
    connection = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    await connection.execute("CREATE TABLE made (due_at timestamptz, pid int)")
    await connection.execute("GRANT SELECT, INSERT ON made TO PUBLIC")
    await connection.close()


async def test_work_recurs_until_it_is_stopped_and_not_after(database: Database) -> None:
    recorder, done = Recorder(), await seen("done")
    async with running(database, recorder.schedule):
        await recorder.has_begun(3)
    finished = recorder.finished
    assert finished == recorder.begun >= 3
    assert await seen("done") == done + finished


async def test_what_a_run_writes_is_committed_with_its_end(database: Database) -> None:
    counted: list[int] = []

    async def write(session: Session) -> None:
        await enqueue(session, Found())
        counted.append(await _jobs(database))  # by another connection, which sees what is committed

    async with running(database, Schedule(name="test", every=EVERY, run=write)):
        await eventually(lambda: _has(counted, 3))
    assert counted == list(range(len(counted)))


async def test_a_run_that_fails_leaves_nothing_and_the_next_one_comes(database: Database) -> None:
    begun = 0

    async def fail_once(session: Session) -> None:
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


async def divide(_session: Session) -> None:
    raise ZeroDivisionError


async def select(session: Session) -> None:
    await session.execute(text("SELECT no_such_column"))


async def cancel(_session: Session) -> None:
    """As a library does whose own time-out leaks. A task that ends by it is missed by nothing."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("bug", [divide, select, cancel])
async def test_a_bug_in_one_schedule_is_written_and_counted_and_the_others_go_on(
    database: Database, bug: Callable[[Session], Awaitable[None]]
) -> None:
    begun = 0

    async def fail(session: Session) -> None:
        nonlocal begun
        begun += 1
        await enqueue(session, Found())
        await bug(session)

    other, failed = Recorder("other"), await seen("failed")
    with captured_logs() as logs:
        async with running(database, Schedule(name="test", every=EVERY, run=fail), other.schedule):
            await eventually(lambda: _is(begun >= 3))
            await other.has_begun(3)
    line = logs.of("schedule_failed")[0]
    assert (line["level"], line["schedule"]) == ("error", "test")
    assert f"in {bug.__name__}" in line["exception"]
    assert await seen("failed") == failed + begun
    assert await _jobs(database) == 0


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
    async with running(dying, stuck.schedule) as stopping:
        await stuck.has_begun()
        async with running(database, other.schedule):
            await _changes("elsewhere")
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
    task = asyncio.create_task(Scheduler(database, [recorder.schedule], random=lambda: 0.0).run(stopping))
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
        async with running(database, waiting_to_begin.schedule, draw=0.5):
            pass
        async with running(database, waiting_again.schedule):
            await waiting_again.has_begun()
    assert (waiting_to_begin.begun, waiting_again.begun) == (0, 1)


async def _jobs(database: Database) -> int:
    async with database.read() as session:
        return int(await session.scalar(text("SELECT count(*) FROM job")) or 0)


async def _has(found: list[int], times: int) -> bool:
    return len(found) >= times


async def _is(condition: bool) -> bool:  # noqa: FBT001
    return condition


async def _changes(outcome: str) -> None:
    before = await seen(outcome)

    async def look() -> bool:
        return await seen(outcome) > before

    await eventually(look)
