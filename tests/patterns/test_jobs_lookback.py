"""A claim looks back only as far as a job may be due, and still each job is run, however late it became visible."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings, JobSettings
from chassis.jobs import JobPayload, RunningJob
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.jobs.tending import Tending
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from jobs_stage import QUICK, TURN, TURNS, Ship, add, running
from waiting import eventually

BEFORE = 3_000
"""Jobs that ran before. Each leaves an entry at the head of the index, as long as an older snapshot is held."""
SLOW_TENDING = JobSettings(concurrency=4, lease=50, poll_interval=0.05)
"""The lease is long, so a worker takes a full look only when it starts."""


@asynccontextmanager
async def held_snapshot(postgres: RealServer, settings: DatabaseSettings) -> AsyncIterator[None]:
    """A transaction is left open, and PostgreSQL keeps each row version that the transaction could still read."""
    connection = await asyncpg.connect(postgres.dsn, database=settings.name)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.execute("SELECT FROM job")
            yield
    finally:
        await connection.close()


async def add_old(effects: asyncpg.Connection, jobs: int = 1) -> None:
    """Jobs that became due a minute ago: a transaction added them and committed only now."""
    await effects.execute(
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, run_at) "
        "SELECT 'ship', 'default', 0, '{}', 1, 3, now() - interval '1 minute' FROM generate_series(1, $1)",
        jobs,
    )


async def all_are_gone(effects: asyncpg.Connection) -> bool:
    return await effects.fetchval("SELECT NOT EXISTS (SELECT FROM job)")


async def test_behind_a_transaction_left_open_a_claim_reads_only_what_may_be_due(
    database_settings: DatabaseSettings, postgres: RealServer, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    done = asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        done.set()

    async def entries_read() -> int:
        """How many entries claims and full looks have read, those of dead rows included."""
        found: int = await effects.fetchval(
            "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE indexrelname IN ('job_claim', 'job_due')"
        )
        return found

    async def ran_before() -> bool:
        return await all_are_gone(effects)

    pool = Database(database_settings, pool="test", application_name="test")
    async with held_snapshot(postgres, database_settings):
        await add_old(effects, BEFORE)
        await effects.execute("UPDATE job SET status = 'running'")
        await effects.execute("DELETE FROM job")
        before = await entries_read()
        async with running(pool, wakeups, {Ship: ship}, SLOW_TENDING):
            for _ in range(60):
                done.clear()
                await add(pool, Ship())
                await asyncio.wait_for(done.wait(), 10)
        await pool.close()  # a session reports its statistics when it ends
        read = await entries_read() - before
    # The full look and the claims before it read all entries. 60 claims would read 180,000.
    assert BEFORE <= read < 10 * BEFORE


@pytest.mark.parametrize("statement", TURNS)
async def test_a_claim_with_a_lookback_takes_what_is_due_within_it(
    database: Database, effects: asyncpg.Connection, statement: str
) -> None:
    await add_old(effects)
    late = await effects.fetchval("SELECT id FROM job")
    fresh = await add(database, Ship())
    await add(database, Ship(), delay=60)
    turn = DRIVER_STATEMENTS[statement]

    async def claim(lookback: float | None) -> list[int]:
        values = {**TURN, "ids": [], "attempts": [], "count": 20, "lookback": lookback}
        return [row["id"] for row in await turn.fetch(effects, **values)]

    assert await claim(30.0) == [fresh]
    assert await claim(90.0) == [late]
    await effects.execute("UPDATE job SET status = 'ready' WHERE status = 'running'")
    assert sorted(await claim(None)) == sorted([late, fresh])


async def appear_late(effects: asyncpg.Connection) -> None:
    await add_old(effects)


async def be_handed_back(effects: asyncpg.Connection) -> None:
    """By a worker that claimed the job long ago, and stops."""
    await effects.execute(
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, run_at, status, attempt) "
        "VALUES ('ship', 'default', 0, '{}', 1, 3, now() - interval '1 minute', 'running', 1)"
    )
    assert await DRIVER_STATEMENTS["hand_back"].fetch(
        effects, ids=[await effects.fetchval("SELECT id FROM job")], attempts=[1]
    )


async def lose_its_lease(effects: asyncpg.Connection) -> None:
    await effects.execute(
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, run_at, status, attempt, "
        "lease_until, worker) VALUES ('ship', 'default', 0, '{}', 1, 3, now() - interval '1 minute', 'running', 1, "
        "now() - interval '1 s', 'dead')"
    )


async def outlive_a_claim_that_rolls_back(effects: asyncpg.Connection) -> None:
    """Another worker has claimed the job, and its connection ends before the commit."""
    await add_old(effects)
    transaction = effects.transaction()
    await transaction.start()
    assert await DRIVER_STATEMENTS["turn"].fetch(effects, **TURN, ids=[], attempts=[], count=1)
    await transaction.rollback()


@pytest.mark.parametrize("event", [appear_late, be_handed_back, lose_its_lease, outlive_a_claim_that_rolls_back])
async def test_a_job_before_the_lookback_is_run_after_the_next_full_look(
    database: Database,
    wakeups: Wakeups,
    effects: asyncpg.Connection,
    event: Callable[[asyncpg.Connection], Awaitable[None]],
) -> None:
    ran: list[int] = []

    async def ship(_job: RunningJob, payload: Ship) -> None:
        ran.append(payload.order)

    async with running(database, wakeups, {Ship: ship}):
        await add(database, Ship(order=7))
        await eventually(lambda: all_are_gone(effects))  # now claims look back a second
        await event(effects)
        await eventually(lambda: all_are_gone(effects))
    assert ran == [7, 1]


async def test_a_late_job_is_run_although_the_worker_always_has_others(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    """Full claims of a higher priority leave no room, and a claim is under way whenever a full look ends."""

    class Urgent(JobPayload, job="urgent", priority=10):
        pass

    late_is_done = asyncio.Event()
    urgent_done = 0

    async def urgent(_job: RunningJob, _payload: Urgent) -> None:
        nonlocal urgent_done
        urgent_done += 1
        if urgent_done == 20:
            await add_old(effects)
        if not late_is_done.is_set():
            await add(database, Urgent())

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        late_is_done.set()

    for _ in range(4):
        await add(database, Urgent())
    one_at_once = QUICK.model_copy(update={"concurrency": 1})
    async with running(database, wakeups, {Urgent: urgent, Ship: ship}, one_at_once):
        await asyncio.wait_for(late_is_done.wait(), 15)


async def test_after_a_slow_full_look_the_next_one_waits_but_no_longer_than_a_lease(
    database: Database, effects: asyncpg.Connection
) -> None:
    tending = Tending(database, queue="default", lease=2.0)
    await tending.tend()
    assert tending.pause < 2.0
    tending.note_outage()  # so the look is the next statement
    seconds = "clock_timestamp() - query_start"
    slow = f"SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND {seconds} > interval '0.2 s'"

    async def look_is_slow() -> bool:
        return await effects.fetchval(f"SELECT EXISTS ({slow})")

    async with asyncio.TaskGroup() as tasks, effects.transaction():
        await effects.execute("LOCK TABLE job")
        tasks.create_task(tending.tend())
        await eventually(look_is_slow)
    assert tending.pause == 2.0


async def test_the_age_of_the_oldest_job_leaves_suspects_and_delayed_jobs_out(
    database: Database, effects: asyncpg.Connection
) -> None:
    async def age() -> float | None:
        (sample,) = await DRIVER_STATEMENTS["sample"].fetch(effects, queue="default", limit=10)
        found: float | None = sample["oldest_other_age"]
        return found

    await add(database, Ship(), delay=60)
    assert await age() is None
    await add_old(effects)
    assert await age() == pytest.approx(60, abs=5)
    await effects.execute("UPDATE job SET is_suspect = true WHERE run_at < now()")
    assert await age() is None
