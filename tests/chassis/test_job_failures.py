"""Failed attempts are remembered beyond their job: what was tried, why it failed, and what came next."""

import pytest
from chassis.errors import BreakerOpen, PermanentJobError
from chassis.jobs import JobPayload, RunningJob, dead_letters, enqueue
from chassis.jobs.decisions import decide_failure
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.pooling import Database
from sqlalchemy import Row, text


class Ship(JobPayload, job="ship", max_attempts=3):
    order_id: str


async def claim(database: Database) -> Row:
    async with database.driver() as connection:
        [row] = await DRIVER_STATEMENTS["turn"].fetch(
            connection,
            ids=[],
            attempts=[],
            queue="default",
            suspects=False,
            alone=False,
            lookback=None,
            count=1,
            worker="host:1",
            lease=15.0,
        )
    return row


async def fail(database: Database, row: Row, error: Exception) -> bool:
    """As the runner records it; whether the attempt was still ours."""
    job = RunningJob(id=row["id"], name="ship", attempt=row["attempt"], max_attempts=row["max_attempts"])
    decision = decide_failure(job, error, lambda: 0.0)
    async with database.driver() as connection:
        values = {"id": row["id"], "attempt": row["attempt"], **decision.values}
        return bool(await DRIVER_STATEMENTS[decision.statement].fetch(connection, **values))


async def failures(database: Database) -> list[Row]:
    async with database.read() as session:
        return list((await session.execute(text("SELECT * FROM job_failure ORDER BY id"))).all())


@pytest.fixture
async def job_id(database: Database) -> int | None:
    async with database.transaction() as session:
        await enqueue(session, Ship(order_id="order-1"))
        return await session.scalar(text("SELECT id FROM job"))


async def test_what_a_breaker_refused_is_remembered_when_the_job_is_done(database: Database, job_id: int):
    assert await fail(database, await claim(database), BreakerOpen("provider", retry_after=0.0))
    again = await claim(database)
    async with database.driver() as connection:
        assert await DRIVER_STATEMENTS["complete"].fetch(connection, id=again["id"], attempt=again["attempt"])
    [failure] = await failures(database)
    assert (failure.job_id, failure.name, failure.attempt) == (job_id, "ship", 1)
    assert failure.payload == {"order_id": "order-1"}
    assert failure.error == "BreakerOpen: provider: circuit breaker is open"
    assert failure.retry_at == failure.failed_at


async def test_the_last_failure_of_a_dead_letter_has_no_retry(database: Database, job_id: int):
    assert await fail(database, await claim(database), PermanentJobError("cannot be read"))
    [failure] = await failures(database)
    assert (failure.error, failure.retry_at) == ("PermanentJobError: cannot be read", None)


async def test_a_lease_that_ran_out_is_a_failure_of_its_attempt_and_who_lost_it_adds_none(
    database: Database, job_id: int
):
    lost = await claim(database)
    async with database.transaction() as session:
        await session.execute(text("UPDATE job SET lease_until = now() - interval '1 second'"))
    async with database.driver() as connection:
        [reaped] = await DRIVER_STATEMENTS["reap"].fetch(connection)
    assert (reaped["id"], reaped["status"]) == (job_id, "ready")
    assert not await fail(database, lost, ConnectionError("too late"))
    [failure] = await failures(database)
    assert (failure.attempt, failure.error) == (1, "the lease of attempt 1 expired on host:1")
    assert failure.retry_at is not None


async def test_failures_older_than_events_are_kept_are_forgotten(database: Database, job_id: int):
    for days in (8, 6):
        await fail(database, await claim(database), ConnectionError(f"{days} days ago"))
        async with database.transaction() as session:
            await session.execute(
                text("UPDATE job_failure SET failed_at = now() - make_interval(days => :days) WHERE attempt = :n"),
                {"days": days, "n": 1 if days == 8 else 2},
            )
    async with database.transaction() as session:
        await dead_letters.prune_failures(session, retention=7 * 86_400)
    assert [failure.error for failure in await failures(database)] == ["ConnectionError: 6 days ago"]
