"""The database's clock is set back: a schedule does not wait until it has caught up."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from chassis.jobs.schedules import Missed, Plan, Schedule, Scheduler, plan
from chassis.pooling import Database, Session
from sqlalchemy import text

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def nothing(_session: Session) -> None: ...


@pytest.mark.parametrize("missed", ["skip", "once", "catch_up"])
def test_a_due_time_further_ahead_than_an_interval_is_due_now(missed: Missed) -> None:
    hourly = Schedule(name="test", every=3600, run=nothing, missed=missed)
    assert plan(hourly, next_at=NOON + HOUR, now=NOON) == Plan(is_due=False, next_at=NOON + HOUR)
    set_back = plan(hourly, next_at=NOON + HOUR, now=NOON - timedelta(minutes=10))
    assert set_back == Plan(is_due=True, next_at=NOON + HOUR - timedelta(minutes=10))


async def test_a_run_that_a_clock_ahead_has_planned_is_made_within_an_interval(database: Database) -> None:
    is_run = asyncio.Event()

    async def run(_session: Session) -> None:
        is_run.set()

    async with database.transaction() as session:
        await session.execute(text("INSERT INTO schedule (name, next_at) VALUES ('test', now() + interval '1 day')"))
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Scheduler(database, [Schedule(name="test", every=3600, run=run)]).run(stopping))
        await asyncio.wait_for(is_run.wait(), 10)
        stopping.set()
