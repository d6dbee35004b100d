"""An attempt is a fencing token: a worker whose job was claimed again changes nothing of it, by any statement."""

import asyncio
import re
from importlib import resources
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings
from chassis.jobs import RunningJob
from chassis.jobs.metrics import processed
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.pooling import Database
from chassis.pooling.statements import load_statements
from chassis.pooling.wakeup import Wakeups
from jobs_stage import Ship, add, refusing, running
from waiting import eventually

TREE = Path(__file__).parents[2]
_TAKES_AN_ATTEMPT = re.compile(r"(?<![:\w]):attempts?\b")

# Not tokens, but a number of attempts: `replay` gives so many to a dead letter.
NO_TOKEN = {"replay"}

FENCED = sorted(
    name
    for name, sql in load_statements("jobs.sql", package="chassis.jobs").items()
    if _TAKES_AN_ATTEMPT.search(sql) and name not in NO_TOKEN
)
"""Each statement of jobs.sql that takes an attempt. A new one is among them without being named here."""

VALUES: dict[str, Any] = {
    "queue": "elsewhere",  # a turn claims nothing
    "worker": "late",
    "lease": 60.0,
    "count": 1,
    "suspects": False,
    "alone": False,
    "lookback": None,
    "delay": 0.0,
    "granted": 1,
    "error": "too late",
}
"""Whatever else they take."""


def tokens(job_id: int, attempt: int) -> dict[str, Any]:
    return {"id": job_id, "attempt": attempt, "ids": [job_id], "attempts": [attempt]}


async def everything(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    jobs = await connection.fetch("SELECT * FROM job ORDER BY id")
    failures = await connection.fetch("SELECT * FROM job_failure ORDER BY id")
    return [tuple(row.values()) for row in (*jobs, *failures)]


async def claim(connection: asyncpg.Connection) -> tuple[int, int]:
    values = VALUES | {"ids": [], "attempts": [], "queue": "default", "worker": "host:1"}
    (row,) = await DRIVER_STATEMENTS["turn"].fetch(connection, **values)
    return row["id"], row["attempt"]


def test_no_other_file_has_a_statement_that_takes_an_attempt() -> None:
    """A statement elsewhere would not be in the table below."""
    elsewhere = [
        path.name
        for folder in (TREE / "services").glob("*/src")
        for path in [*folder.rglob("*.sql"), *folder.rglob("*.py")]
        if path.name != "jobs.sql" and _TAKES_AN_ATTEMPT.search(path.read_text("utf-8"))
    ]
    assert elsewhere == []
    assert resources.files("chassis").joinpath("jobs/jobs.sql").is_file()


def test_the_statements_that_end_extend_or_give_back_a_job_are_all_fenced() -> None:
    assert {"turn", "turn_oldest", "complete", "heartbeat", "retry", "bury", "hand_back"} <= set(FENCED)


@pytest.mark.parametrize("claimed_by", ["another worker", "the same worker"])
@pytest.mark.parametrize("name", FENCED)
async def test_a_statement_of_an_attempt_whose_job_was_claimed_again_changes_nothing(
    database: Database, effects: asyncpg.Connection, name: str, claimed_by: str
) -> None:
    await add(database, Ship())
    job_id, attempt = await claim(effects)
    await effects.execute("UPDATE job SET lease_until = now() - interval '1 s'")
    await DRIVER_STATEMENTS["reap"].fetch(effects)
    await effects.execute("UPDATE job SET is_suspect = false")
    assert await claim(effects) == (job_id, attempt + 1)
    if claimed_by == "another worker":
        await effects.execute("UPDATE job SET worker = 'host:2'")
    before = await everything(effects)
    rows = await DRIVER_STATEMENTS[name].fetch(effects, **VALUES | tokens(job_id, attempt))
    assert await everything(effects) == before
    # A turn names what it could not end; the others return what they did.
    assert [tuple(row.values())[:3] for row in rows] == ([(job_id, attempt, None)] if name.startswith("turn") else [])


@pytest.mark.parametrize("name", FENCED)
async def test_the_same_statement_of_the_attempt_that_runs_changes_the_job(
    database: Database, effects: asyncpg.Connection, name: str
) -> None:
    """Or the test before would hold of a statement that never does anything."""
    await add(database, Ship())
    job_id, attempt = await claim(effects)
    before = await everything(effects)
    await DRIVER_STATEMENTS[name].fetch(effects, **VALUES | tokens(job_id, attempt))
    assert await everything(effects) != before


@pytest.mark.parametrize("name", FENCED)
async def test_a_statement_of_an_attempt_whose_job_waits_again_changes_nothing(
    database: Database, effects: asyncpg.Connection, name: str
) -> None:
    await add(database, Ship())
    job_id, attempt = await claim(effects)
    await effects.execute("UPDATE job SET lease_until = now() - interval '1 s'")
    await DRIVER_STATEMENTS["reap"].fetch(effects)
    before = await everything(effects)
    await DRIVER_STATEMENTS[name].fetch(effects, **VALUES | tokens(job_id, attempt))
    assert await everything(effects) == before


# A worker that cannot reach the database does not go on with what may be another's by now


async def test_a_handler_does_not_go_on_beyond_its_lease_while_the_database_is_away(
    database: Database, wakeups: Wakeups, database_settings: DatabaseSettings, postgres: RealServer
) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        if started.is_set():
            return
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}):
        await asyncio.wait_for(started.wait(), 10)
        async with refusing(postgres, database_settings.name):
            await asyncio.wait_for(cancelled.wait(), 10)  # nobody is there to say that the job is lost


async def test_an_end_that_waits_for_the_database_is_given_up_with_its_lease(
    database: Database, wakeups: Wakeups, database_settings: DatabaseSettings, postgres: RealServer
) -> None:
    """Its slot is free again, and the job is not reported as completed: it is run once more."""
    runs = list[int]()
    may_end = asyncio.Event()

    async def ship(job: RunningJob, _payload: Ship) -> None:
        runs.append(job.attempt)
        await may_end.wait()

    def lost() -> int:
        return int(processed.labels("default", "ship", "lease_lost")._value.get())

    async def is_started() -> bool:
        return len(runs) == 1

    async def is_given_up() -> bool:
        return lost() == before + 1

    async def is_run_again() -> bool:
        return len(runs) == 2

    before = lost()
    await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}):
        await eventually(is_started)
        async with refusing(postgres, database_settings.name):
            may_end.set()
            await eventually(is_given_up)
        await eventually(is_run_again)
    assert runs == [1, 2]
