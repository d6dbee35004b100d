"""The database's clock is set back: nothing waits until it has caught up. Rows are as the clock before wrote them."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from chassis.jobs import JobPayload, RunningJob, enqueue, has_live_job
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.jobs.tending import Tending
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from jobs_stage import QUICK, TURN, Ship, add, find, running
from sqlalchemy import Row, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

STEP = "interval '1 hour'"
WRITTEN_BEFORE = (
    f"UPDATE job SET run_at = run_at + {STEP}, lease_until = lease_until + {STEP}, deadline = deadline + {STEP}, "
    f"written_at = written_at + {STEP}, created_at = created_at + {STEP}"
)


async def tend(database: Database) -> None:
    await Tending(database, queue="default", lease=15.0).tend()


async def seconds_ahead(effects: asyncpg.Connection, column: str) -> float:
    found: float = await effects.fetchval(f"SELECT extract(epoch FROM {column} - now())::float8 FROM job")
    return found


async def claim(connection: asyncpg.Connection, *, lease: float = 15.0) -> asyncpg.Record:
    (row,) = await DRIVER_STATEMENTS["turn"].fetch(connection, ids=[], attempts=[], count=1, **TURN | {"lease": lease})
    return row


async def test_a_job_that_was_due_is_run_at_once(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    done = asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        done.set()

    await add(database, Ship())
    await effects.execute(WRITTEN_BEFORE)
    async with running(database, wakeups, {Ship: ship}):
        await asyncio.wait_for(done.wait(), 10)


async def test_a_delay_and_a_deadline_are_as_long_as_they_were(database: Database, effects: asyncpg.Connection) -> None:
    await add(database, Ship(), delay=300, deadline=600)
    await effects.execute(WRITTEN_BEFORE)
    await tend(database)
    assert await seconds_ahead(effects, "run_at") == pytest.approx(300, abs=5)
    assert await seconds_ahead(effects, "deadline") == pytest.approx(600, abs=5)


async def test_a_wait_for_another_attempt_is_as_long_as_it_was(database: Database, effects: asyncpg.Connection) -> None:
    await add(database, Ship())
    job = await claim(effects)
    await DRIVER_STATEMENTS["retry"].fetch(
        effects, id=job["id"], attempt=job["attempt"], delay=60.0, granted=0, error="away"
    )
    await effects.execute(WRITTEN_BEFORE)
    await tend(database)
    assert await seconds_ahead(effects, "run_at") == pytest.approx(60, abs=5)


async def test_a_dead_workers_lease_is_as_long_as_it_was_and_its_job_is_due_then(
    database: Database, effects: asyncpg.Connection
) -> None:
    await add(database, Ship())
    await claim(effects)
    await effects.execute(WRITTEN_BEFORE)
    await tend(database)
    assert await seconds_ahead(effects, "lease_until") == pytest.approx(15, abs=5)
    await effects.execute("UPDATE job SET lease_until = now() - interval '1 s'")
    await tend(database)
    assert await effects.fetchval("SELECT status FROM job") == "ready"
    assert await seconds_ahead(effects, "run_at") <= 0


@pytest.mark.parametrize("ending", ["hand_back", "reap"])
async def test_a_job_that_was_claimed_before_and_kept_by_heartbeats_since_is_due_when_it_is_given_up(
    database: Database, effects: asyncpg.Connection, ending: str
) -> None:
    await add(database, Ship())
    job = await claim(effects)
    await effects.execute(WRITTEN_BEFORE)
    tokens = {"ids": [job["id"]], "attempts": [job["attempt"]]}
    await DRIVER_STATEMENTS["heartbeat"].fetch(effects, **tokens, lease=15.0)
    if ending == "hand_back":
        await DRIVER_STATEMENTS["hand_back"].fetch(effects, **tokens)
    else:
        await effects.execute("UPDATE job SET lease_until = now() - interval '1 s'")
        await DRIVER_STATEMENTS["reap"].fetch(effects)
    assert await effects.fetchval("SELECT status FROM job") == "ready"
    assert await seconds_ahead(effects, "run_at") <= 0


async def test_a_live_workers_job_is_not_taken_from_it(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    started, release = asyncio.Event(), asyncio.Event()
    attempts: list[int] = []

    async def ship(job: RunningJob, _payload: Ship) -> None:
        attempts.append(job.attempt)
        started.set()
        await release.wait()

    job_id = await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}, QUICK.model_copy(update={"lease": 5.0})):
        await asyncio.wait_for(started.wait(), 10)
        await effects.execute(WRITTEN_BEFORE)
        for _ in range(3):
            await tend(database)
        row = await find(database, job_id)
        release.set()
    assert (row_status(row), attempts) == ("running", [1])


def row_status(row: Row[Any] | None) -> str:
    return "gone" if row is None else str(row.status)


async def test_a_job_that_waits_on_purpose_goes_on_waiting(database: Database, effects: asyncpg.Connection) -> None:
    await add(database, Ship(), delay=3600)
    before = await effects.fetchrow("SELECT run_at, written_at FROM job")
    await tend(database)
    assert await effects.fetchrow("SELECT run_at, written_at FROM job") == before


class Base(DeclarativeBase):
    pass


class Parcel(Base):
    __tablename__ = "parcel"
    id: Mapped[UUID] = mapped_column(primary_key=True)


class Send(JobPayload, job="send"):
    parcel_id: UUID


async def test_a_dead_letter_from_before_does_not_keep_a_sweep_from_its_job(
    database: Database, effects: asyncpg.Connection
) -> None:
    await effects.execute("CREATE TABLE parcel (id uuid PRIMARY KEY)")
    await effects.execute("GRANT SELECT ON parcel TO PUBLIC")
    parcel_id = uuid4()
    await effects.execute("INSERT INTO parcel VALUES ($1)", parcel_id)
    async with database.transaction() as session:
        await enqueue(session, Send(parcel_id=parcel_id))
    await effects.execute("UPDATE job SET status = 'dead'")

    async def is_left_alone() -> bool:
        async with database.read() as session:
            return await session.scalar(select(Parcel.id).where(has_live_job([Send], parcel_id=Parcel.id))) is not None

    assert await is_left_alone()
    await effects.execute(WRITTEN_BEFORE)
    assert not await is_left_alone()
    await effects.execute("UPDATE job SET run_at = now() - $1::interval", timedelta(minutes=11))
    assert not await is_left_alone()
