"""Looking after jobs: the command line and a worker's management port do the same, and say what was changed."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from captured_logs import captured_logs
from chassis.app.worker import WorkerResources
from chassis.config.settings import DatabaseSettings, JobSettings, OutboxSettings, RedisSettings
from chassis.jobs import JobPayload, dead_letters, enqueue
from chassis.jobs import routes as job_routes
from chassis.pooling import Database
from chassis.process.health import Health
from chassis.process.management_app import management_app
from pydantic import SecretStr
from service_process import OrdersInstallation
from sqlalchemy import text
from waiting import eventually

TOKEN = "t" * 32
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


class Mail(JobPayload, job="mail", max_attempts=2):
    pass


class Ship(JobPayload, job="ship", max_attempts=2):
    pass


@pytest.fixture
async def dead(database: Database) -> list[int]:
    """The ids of a dead `mail` and of a dead `ship`."""
    async with database.transaction() as session:
        await enqueue(session, Mail())
        await enqueue(session, Ship())
        await session.execute(
            text("UPDATE job SET status = 'dead', attempt = 2, last_error = 'ConnectionError: ' || name || ' is away'")
        )
        return list(await session.scalars(text("SELECT id FROM job ORDER BY id")))


@pytest.fixture
async def port(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = management_app(Health({}), {}, token=lambda: SecretStr(TOKEN), routes=job_routes.routes(database))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
        yield client


async def statuses(database: Database) -> list[str]:
    async with database.read() as session:
        return list(await session.scalars(text("SELECT status FROM job ORDER BY id")))


async def test_the_port_shows_dead_letters_counts_and_what_is_left(port: httpx.AsyncClient, dead: list[int]) -> None:
    assert [job["id"] for job in (await port.get("/jobs/dead")).json()] == dead
    assert [job["name"] for job in (await port.get("/jobs/dead?error=ship is")).json()] == ["ship"]
    shown = (await port.get(f"/jobs/{dead[0]}")).json()
    assert (shown["name"], shown["attempt"], shown["last_error"]) == ("mail", 2, "ConnectionError: mail is away")
    assert {(row["name"], row["jobs"]) for row in (await port.get("/jobs/stats")).json()} == {("mail", 1), ("ship", 1)}
    assert (await port.get("/jobs/left")).json() == {"due": 0, "running": 0, "later": 0, "is_drained": True}


async def test_a_replay_needs_the_token_and_is_one_line_that_says_which_jobs(
    port: httpx.AsyncClient, database: Database, dead: list[int]
) -> None:
    assert (await port.post(f"/jobs/{dead[0]}/replay")).status_code == 401
    assert await statuses(database) == ["dead", "dead"]
    with captured_logs() as logs:
        answer = await port.post(f"/jobs/{dead[0]}/replay", headers=AUTHORIZED)
    assert answer.json() == {"replayed": [dead[0]], "dry_run": False}
    assert await statuses(database) == ["ready", "dead"]
    (line,) = logs.of("management_changed")
    assert (line["job_ids"], line["jobs"], line["status"]) == (str(dead[0]), 1, 200)
    assert line["by"].startswith("secret:")
    assert TOKEN not in str(line)


async def test_replaying_all_takes_what_the_filters_leave_and_a_dry_run_takes_none(
    port: httpx.AsyncClient, database: Database, dead: list[int]
) -> None:
    tried = await port.post("/jobs/replay?all=true&dry_run=true", headers=AUTHORIZED)
    assert tried.json() == {"replayed": dead, "dry_run": True}
    assert await statuses(database) == ["dead", "dead"]
    replayed = await port.post("/jobs/replay?all=true&name=ship&queue=default", headers=AUTHORIZED)
    assert replayed.json()["replayed"] == [dead[1]]
    assert await statuses(database) == ["dead", "ready"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/jobs/4711", 404),
        ("POST", "/jobs/4711/replay", 404),
        ("POST", "/jobs/replay", 422),
        ("POST", "/jobs/replay?all=true&dry_run=maybe", 422),
        ("POST", "/jobs/replay?all=true&nmae=ship", 422),
        ("GET", "/jobs/dead?name=", 422),
    ],
)
async def test_a_question_it_cannot_answer_is_an_error_in_the_envelope_and_changes_nothing(
    port: httpx.AsyncClient, database: Database, dead: list[int], method: str, path: str, status: int
) -> None:
    answer = await port.request(method, path, headers=AUTHORIZED)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] in {"NOT_FOUND", "VALIDATION_FAILED"}
    assert await statuses(database) == ["dead", "dead"]


async def test_the_command_replays_what_its_filters_leave_and_says_who_did_it(
    tmp_path: Path,
    database_settings: DatabaseSettings,
    redis_settings: RedisSettings,
    database: Database,
    dead: list[int],
) -> None:
    orders = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    listed = await orders.run("jobs", "dead", "--filter", "name=ship")
    assert listed.stdout == f"{dead[1]}  ship  attempts 2/2  ConnectionError: ship is away\n"
    tried = await orders.run("jobs", "replay", "--all", "--dry-run")
    assert (tried.stdout, tried.stderr) == (f"would replay 2: {dead[0]}, {dead[1]}\n", "")
    assert await statuses(database) == ["dead", "dead"]
    replayed = await orders.run("jobs", "replay", "--all", "--filter", "error=mail is")
    assert (replayed.code, replayed.stdout) == (0, f"replayed 1: {dead[0]}\n")
    audited = json.loads(replayed.stderr)
    assert (audited["event"], audited["job_ids"]) == ("jobs_replayed", [dead[0]])
    assert audited["by"]
    assert await statuses(database) == ["ready", "dead"]
    undrained = await orders.run("jobs", "drain", "--timeout", "0.1")
    assert (undrained.code, undrained.stderr) == (1, "not drained in 0.1 s: 1 due, 0 running\n")
    async with database.transaction() as session:
        await session.execute(text("UPDATE job SET run_at = now() + interval '1 day' WHERE status = 'ready'"))
    drained = await orders.run("jobs", "drain", "--timeout", "0")
    assert (drained.code, drained.stdout) == (0, "drained; 1 due later\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["replay"], "say which one"),
        (["replay", "1", "--all"], "say which one"),
        (["replay", "1", "--filter", "name=ship"], "say which one"),
        (["replay", "4711"], "job 4711 is no dead letter"),
        (["show", "9223372036854775808"], "there is no job 9223372036854775808"),
        (["dead", "--filter", "nmae=ship"], "'nmae=ship' is no filter"),
    ],
)
async def test_a_command_that_makes_no_sense_is_told_so_in_a_line(
    tmp_path: Path,
    database_settings: DatabaseSettings,
    redis_settings: RedisSettings,
    arguments: list[str],
    problem: str,
) -> None:
    orders = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    ended = await orders.run("jobs", *arguments)
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.startswith(problem)
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("given", [["name=a", "name=b"], ["name="], ["name"], ["status=dead"]])
def test_a_filter_that_is_none_is_refused(given: list[str]) -> None:
    with pytest.raises(Exception, match="is no filter"):
        dead_letters.Filter.parse(given)


async def test_old_dead_letters_are_forgotten_and_newer_ones_kept(database: Database, dead: list[int]) -> None:
    async with database.transaction() as session:
        await session.execute(text("UPDATE job SET run_at = now() - interval '91 days' WHERE name = 'mail'"))
        await enqueue(session, Mail())
        await session.execute(text("UPDATE job SET run_at = now() - interval '91 days' WHERE status = 'ready'"))
    with captured_logs() as logs:
        async with database.transaction() as session:
            await dead_letters.prune(session, retention=90 * 86_400)
    assert await statuses(database) == ["dead", "ready"]
    assert logs.of("dead_letters_pruned")[0]["jobs"] == 1


async def test_every_worker_with_schedules_forgets_old_dead_letters_and_failures(
    database: Database, dead: list[int]
) -> None:
    async with database.transaction() as session:
        await session.execute(text("UPDATE job SET run_at = now() - interval '91 days' WHERE name = 'mail'"))
        await session.execute(
            text(
                "INSERT INTO job_failure (job_id, name, payload, attempt, error, failed_at)"
                " SELECT id, name, payload, attempt, last_error, run_at FROM job"
            )
        )
        await session.execute(
            text(
                "INSERT INTO schedule (name, next_at)"
                " VALUES ('prune_dead_letters', now()), ('prune_job_failures', now())"
            )
        )
    nothing: Any = None
    settings: Any = SimpleNamespace(jobs=JobSettings(), outbox=OutboxSettings())
    resources = WorkerResources(
        current=lambda: settings,
        settings=settings,
        passwords=nothing,
        database=database,
        redis=nothing,
        streams=nothing,
        wakeups=nothing,
        checks={},
        breakers=nothing,
    )
    stopping = asyncio.Event()
    running = asyncio.create_task(resources.scheduler([])(stopping))

    async def one_is_left_of_each() -> bool:
        async with database.read() as session:
            failures = await session.scalar(text("SELECT count(*) FROM job_failure"))
        return (len(await statuses(database)), failures) == (1, 1)

    await eventually(one_is_left_of_each)
    stopping.set()
    await running
    async with database.read() as session:
        assert await dead_letters.show(session, dead[1]) is not None


async def test_dead_letters_are_forgotten_a_few_at_a_time(database: Database, dead: list[int]) -> None:
    async with database.transaction() as session:
        await dead_letters.prune(session, retention=-1, count=1)
    assert await statuses(database) == ["dead"]
    async with database.read() as session:
        assert await dead_letters.show(session, dead[0]) is None
