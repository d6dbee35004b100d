"""Jobs that may have killed their worker: they starve no other job, and no job dies of its neighbours."""

import asyncio
import random
from asyncio.subprocess import Process
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg
import pytest
from chassis.config.settings import DatabaseSettings, JobSettings
from chassis.jobs import RunningJob
from chassis.jobs.decisions import NOTHING, Claim, Due, decide_claim
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from jobs_stage import Ship, add, effect, find, reaches, running, worker
from jobs_worker import Crash, Innocent, Slow, Urgent
from sqlalchemy import Row, text
from waiting import eventually

BESIDE, ALONE = Claim(1, suspects=True), Claim(1, suspects=True, alone=True)


def decide(
    unended: int,
    *,
    concurrency: int = 8,
    others: bool = True,
    suspects: bool = False,
    lone_suspects: bool = False,
    running: Claim | None = None,
    is_others_turn: bool = False,
) -> Claim:
    due = Due(others=others, suspects=suspects, lone_suspects=lone_suspects)
    return decide_claim(
        unended=unended, concurrency=concurrency, due=due, running=running, is_others_turn=is_others_turn
    )


def test_a_claim_asks_for_all_slots_that_are_free_and_never_for_more() -> None:
    assert [decide(unended).count for unended in (0, 3, 4, 7, 8)] == [8, 5, 4, 1, 0]
    assert decide(0, concurrency=1).count == 1


def test_a_suspect_takes_the_next_free_slot_and_the_others_keep_the_rest() -> None:
    assert decide(0, suspects=True) == BESIDE
    assert decide(7, suspects=True) == BESIDE
    assert decide(8, suspects=True).count == 0
    assert decide(1, suspects=True, running=BESIDE) == Claim(7)


def test_where_there_is_one_slot_a_suspect_and_another_job_take_turns() -> None:
    assert decide(0, concurrency=1, suspects=True) == BESIDE
    assert decide(0, concurrency=1, suspects=True, is_others_turn=True) == Claim(1)
    assert decide(0, concurrency=1, suspects=True, is_others_turn=True, others=False) == BESIDE


def test_a_lone_suspect_waits_until_it_is_alone_and_nothing_is_claimed_beside_it() -> None:
    assert decide(3, lone_suspects=True, suspects=True) == NOTHING
    assert decide(1, lone_suspects=True, running=BESIDE) == NOTHING
    assert decide(0, lone_suspects=True, suspects=True) == ALONE
    assert decide(1, lone_suspects=True, suspects=True, running=ALONE) == NOTHING
    assert decide(1, running=ALONE, is_others_turn=True) == NOTHING
    assert decide(0, lone_suspects=True, is_others_turn=True) == Claim(8)


# The queue


EXPIRED = "UPDATE job SET status = 'running', attempt = attempt + 1, lease_until = now() - interval '1 s', worker = 'x'"


async def test_only_a_lease_that_a_job_loses_alone_counts_and_can_be_its_last(
    database: Database, effects: asyncpg.Connection
) -> None:
    await add(database, Ship())
    seen = []
    for _ in range(5):
        await effects.execute(EXPIRED)
        async with database.driver() as connection:
            await DRIVER_STATEMENTS["reap"].fetch(connection)
        row = await effects.fetchrow("SELECT * FROM job")
        assert row is not None
        seen.append((row["status"], row["is_suspect"], row["runs_alone"], row["max_attempts"] - row["attempt"]))
    assert seen == [
        ("ready", True, False, 3),  # beside others
        ("ready", True, True, 3),  # the one suspect among others
        ("ready", True, True, 2),
        ("ready", True, True, 1),
        ("dead", True, True, 0),
    ]


async def test_an_attempt_that_ends_by_itself_clears_a_job_of_the_suspicion(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    async def ship(_job: RunningJob, _payload: Ship) -> None:
        raise ConnectionError("away")

    job_id = await add(database, Ship())
    await effects.execute("UPDATE job SET is_suspect = true, runs_alone = true")
    patient = JobSettings(backoff_base=100, backoff_cap=100, poll_interval=0.05, lease=0.6, loop_limit=1)

    async def has_failed() -> Row[Any] | None:
        row = await find(database, job_id)
        return row if row is not None and row.last_error is not None else None

    async with running(database, wakeups, {Ship: ship}, patient):
        row = await eventually(has_failed)
    assert row is not None
    assert (row.is_suspect, row.runs_alone) == (False, False)


@pytest.mark.parametrize("lone", [False, True])
async def test_beside_a_suspect_run_others_but_no_second_one_and_beside_a_lone_one_nothing(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection, *, lone: bool
) -> None:
    beside: dict[int, set[int]] = {}
    present: set[int] = set()

    async def ship(_job: RunningJob, payload: Ship) -> None:
        present.add(payload.order)
        for order in present:
            beside.setdefault(order, set()).update(present - {order})
        async with database.read() as session:
            await session.execute(text("SELECT pg_sleep(0.02)"))
        present.discard(payload.order)

    async def all_are_gone() -> bool:
        return await effects.fetchval("SELECT count(*) FROM job") == 0

    for order in range(12):
        await add(database, Ship(order=order))
    suspects = {3, 7}
    await effects.execute(
        "UPDATE job SET is_suspect = true, runs_alone = $1 WHERE (payload->>'order')::int IN (3, 7)", lone
    )
    async with running(database, wakeups, {Ship: ship}):
        await eventually(all_are_gone)
    assert beside.keys() == set(range(12))
    if lone:
        assert beside[3] == beside[7] == set()
    else:
        assert not beside[3] & suspects
        assert not beside[7] & suspects
    assert max(len(others) for others in beside.values()) > 0


@dataclass
class SimulatedWorker:
    """A process with a runner's decisions and the real statements. `poisons` end it when they run."""

    connection: asyncpg.Connection
    poisons: set[int]
    concurrency: int
    running: dict[int, int] = field(default_factory=dict)  # attempt by id
    suspect: tuple[int, Claim] | None = None
    is_others_turn: bool = False

    async def take_turn(self, ended: list[int]) -> None:
        tokens = {"ids": ended, "attempts": [self.running.pop(id_) for id_ in ended]}
        (sample,) = await DRIVER_STATEMENTS["sample"].fetch(self.connection, queue="default", limit=10)
        suspect, claim = self.suspect or (None, None)
        claim = decide_claim(
            unended=len(self.running),
            concurrency=self.concurrency,
            due=Due(others=True, suspects=sample["has_suspects"], lone_suspects=sample["has_lone"]),
            running=claim if suspect in self.running else None,
            is_others_turn=self.is_others_turn,
        )
        rows = await DRIVER_STATEMENTS["turn"].fetch(
            self.connection,
            **tokens,
            queue="default",
            worker="test",
            lease=60.0,
            count=claim.count,
            suspects=claim.suspects,
            alone=claim.alone,
            lookback=None,
        )
        self.running |= {row["id"]: row["attempt"] for row in rows}
        if claim.suspects and rows:
            self.suspect, self.is_others_turn = (rows[0]["id"], claim), True
        elif claim.count:
            self.is_others_turn = False

    async def die(self) -> None:
        """All at once, as a killed process does."""
        await self.connection.execute(
            "UPDATE job SET lease_until = now() - interval '1 s' WHERE id = ANY ($1)", list(self.running)
        )
        self.running, self.suspect, self.is_others_turn = {}, None, False


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_is_killed_when_each_poison_job_dies_alone_and_every_other_job_is_done(
    effects: asyncpg.Connection, database: Database, seed: int
) -> None:
    """Two workers, poison jobs that come at any time, kills from outside, and innocents with a single attempt."""
    dice = random.Random(seed)
    poisons: set[int] = set()
    for order in range(14):
        job_id = await add(database, Ship(order=order))
        if dice.random() < 0.25:
            poisons.add(job_id)
    await effects.execute("UPDATE job SET max_attempts = CASE WHEN id = ANY ($1) THEN 2 ELSE 1 END", list(poisons))
    workers = [SimulatedWorker(effects, poisons, concurrency=dice.choice([1, 2, 4])) for _ in range(2)]
    kills = 3
    for _ in range(400):
        worker = dice.choice(workers)
        strikes = [id_ for id_ in worker.running if id_ in poisons and dice.random() < 0.5]
        # From outside only beside others: a job that is alone when its process is killed is taken for the cause.
        is_alone = worker.suspect is not None and worker.suspect[1].alone and worker.suspect[0] in worker.running
        is_killed = kills > 0 and not is_alone and dice.random() < 0.1
        if strikes or is_killed:
            kills -= not strikes
            await worker.die()
        else:
            done = [id_ for id_ in worker.running if id_ not in poisons and dice.random() < 0.5]
            await worker.take_turn(done)
        await DRIVER_STATEMENTS["reap"].fetch(effects)
        rows = {row["id"]: row["status"] for row in await effects.fetch("SELECT id, status FROM job")}
        assert not [id_ for id_, status in rows.items() if status == "dead" and id_ not in poisons]
        if rows == dict.fromkeys(poisons, "dead"):
            return
    pytest.fail(f"jobs are left: {rows}")


# Real processes


async def test_slow_jobs_under_way_at_a_kill_keep_no_urgent_one_waiting(
    database: Database, database_settings: DatabaseSettings, effects: asyncpg.Connection
) -> None:
    async def started_by(process: Process) -> int:
        query = "SELECT count(DISTINCT job_id) FROM effect WHERE what = 'started' AND pid = $1"
        count: int = await effects.fetchval(query, process.pid)
        return count

    async def are_started(count: int, process: Process) -> bool:
        return await started_by(process) == count

    async def all_are_gone() -> bool:
        return await effects.fetchval("SELECT count(*) FROM job") == 0

    for _ in range(8):
        await add(database, Slow())
    async with worker(database_settings, lease=3) as first:
        await eventually(partial(are_started, 8, first), seconds=30)
        first.kill()
        await first.wait()
    async with worker(database_settings, lease=3) as second:
        await eventually(partial(are_started, 1, second), seconds=30)
        urgent = await add(database, Urgent())
        await reaches(database, urgent, "gone")
        assert await started_by(second) == 1  # the first of the eight runs still, and no other
        await effects.execute("INSERT INTO effect (what) VALUES ('release')")
        await eventually(all_are_gone, seconds=30)


async def test_a_job_that_kills_its_process_ends_dead_and_takes_no_innocent_along(
    database: Database, database_settings: DatabaseSettings, effects: asyncpg.Connection
) -> None:
    innocent = await add(database, Innocent())
    poison = await add(database, Crash())
    for attempt in (1, 2, 3, 4):  # beside others, as the one suspect among them, and twice alone
        async with worker(database_settings) as process:
            await effect(effects, "poison", attempt=attempt)
            assert await asyncio.wait_for(process.wait(), 10) == 9
    async with worker(database_settings):
        await reaches(database, poison, "dead")
        await reaches(database, innocent, "gone")
    row = await find(database, poison)
    assert row is not None
    assert (row.attempt, row.max_attempts) == (4, 4)
    assert "the lease of attempt 4 expired" in row.last_error
