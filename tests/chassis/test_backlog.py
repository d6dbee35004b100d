"""A bounded backlog: refused from the limit on, accepted again well below it, and counted once a second at most."""

import asyncio
import math

import pytest
from chassis.config.settings import JobSettings
from chassis.errors import ApiError, ErrorCode
from chassis.jobs import JobPayload, enqueue
from chassis.jobs.backlog import MEASURE_SECONDS, Backlog, BacklogLimit, backlog_jobs, refused
from chassis.pooling import Database
from sqlalchemy import text

LIMIT = 10


class Wait(JobPayload, job="wait"):
    pass


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def add(database: Database, jobs: int, *, delay: float = 0) -> None:
    async with database.transaction() as session:
        for _ in range(jobs):
            await enqueue(session, Wait(), delay=delay)


async def remove(database: Database, jobs: int) -> None:
    async with database.transaction() as session:
        await session.execute(
            text("DELETE FROM job WHERE id = ANY (ARRAY (SELECT id FROM job LIMIT :jobs))"), {"jobs": jobs}
        )


def test_it_is_full_from_the_limit_on_until_four_fifths_of_it_are_left() -> None:
    found = Backlog(0, -math.inf, is_full=False)
    seen = []
    for second, jobs in enumerate([9, 10, 9, 8, 7, 8, 9, 10]):
        found = found.then(jobs, at=second, limit=LIMIT)
        seen.append(found.is_full)
    assert seen == [False, True, True, True, False, False, False, True]


def test_retry_after_is_when_there_will_be_room_between_five_seconds_and_a_minute() -> None:
    full = Backlog(1000, 0, is_full=True)
    assert full.then(990, at=1, limit=1000).retry_after(1000) == pytest.approx(19)
    assert full.then(801, at=1, limit=1000).retry_after(1000) == 5
    assert full.then(999, at=1, limit=1000).retry_after(1000) == 60
    assert full.then(1000, at=1, limit=1000).retry_after(1000) == 60


async def test_delayed_jobs_count_since_a_failing_dependency_delays_all_of_them(database: Database) -> None:
    clock = Clock()
    limit = BacklogLimit(database, JobSettings(backlog_limit=LIMIT), clock=clock)
    await add(database, LIMIT, delay=3600)
    with pytest.raises(ApiError) as raised:
        await limit.check()
    assert (raised.value.code, raised.value.retry_after) == (ErrorCode.OVERLOADED, 60)
    await remove(database, 3)
    with pytest.raises(ApiError):
        await limit.check()  # what was found a moment ago
    clock.now += MEASURE_SECONDS
    await limit.check()


async def test_of_many_requests_at_once_one_counts_and_no_other_waits_for_it(database: Database) -> None:
    clock = Clock()
    limit = BacklogLimit(database, JobSettings(backlog_limit=LIMIT), clock=clock)
    await limit.check()
    await add(database, LIMIT)
    clock.now += MEASURE_SECONDS
    results = await asyncio.gather(*(limit.check() for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, ApiError) for result in results) == 1


async def test_what_waits_and_who_is_refused_are_counted(database: Database) -> None:
    await add(database, 1)
    limit = BacklogLimit(database, JobSettings(backlog_limit=1))
    before = refused.labels("default")._value.get()
    for _ in range(2):
        with pytest.raises(ApiError):
            await limit.check()
    assert backlog_jobs.labels("default")._value.get() == 1
    assert refused.labels("default")._value.get() == before + 2
