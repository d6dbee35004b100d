"""An operator's command dies before or after its commit, and the operator gives it again."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from backends import FreshDatabase
from chassis.config.settings import DatabaseSettings
from chassis.pooling import Database
from crash_points import CrashPoints
from points import COMMANDS
from service_process import database_variables
from sqlalchemy import text


@dataclass(frozen=True, slots=True)
class Command:
    """`insert` writes what the command is about, `ask` how that stands, before and after it."""

    service: str
    words: Sequence[str]
    insert: str
    ask: str
    before: object
    after: object


_COMMANDS = {
    "jobs replay": Command(
        "orders",
        ["--all"],
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, status, attempt)"
        " VALUES ('request_payment', 'default', 0, '{}', 1, 3, 'dead', 3)",
        "SELECT status || max_attempts FROM job",
        before="dead3",
        after="ready6",
    ),
    "events replay": Command(
        "orders",
        ["--all"],
        "INSERT INTO dead_event (consumer, stream, entry_id, event, reason)"
        " VALUES ('orders', 'payments', '7-1', '{', 'it cannot be read')",
        "SELECT count(*) || '' || count(replay_at) FROM dead_event",
        before="10",
        after="11",
    ),
    "webhooks redrive": Command(
        "webhook-ingest",
        ["dead"],
        "INSERT INTO provider_event (provider, event_id, body, status) VALUES ('stripe', 'evt_1', '{}', 'dead')",
        "SELECT status || (SELECT count(*) FROM job) FROM provider_event",
        before="dead0",
        after="stored1",
    ),
    "mails resend": Command(
        "notifications",
        ["--all"],
        "INSERT INTO mail (event_id, client_id, event_type, recipient, subject, text, status)"
        " VALUES (uuidv7(), 'acme', 'endpoint.disabled', 'ada@example.com', 'Disabled', '', 'dead')",
        "SELECT status || (SELECT count(*) FROM job) FROM mail",
        before="dead0",
        after="pending1",
    ),
}


async def give(command: Command, name: str, settings: DatabaseSettings, folder: Path) -> int:
    """The exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name("crash_process.py"),
        folder,
        command.service,
        *name.split(),
        *command.words,
        env=database_variables(settings),
        stdout=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()


@pytest.mark.parametrize("place", ["uncommitted", "committed"])
@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_that_dies_has_done_all_or_nothing_and_may_be_given_again(
    fresh_database: FreshDatabase, tmp_path: Path, name: str, place: str
):
    command = _COMMANDS[name]
    settings = await fresh_database(command.service.replace("-", "_"))
    database = Database(settings, pool="test", application_name="test")
    async with database.transaction() as session:
        await session.execute(text(command.insert))

    async def state() -> object:
        async with database.read() as session:
            return await session.scalar(text(command.ask))

    assert await state() == command.before
    CrashPoints.arm(tmp_path, f"{command.service}-{name.split(maxsplit=1)[0]}", f"{name} {place}")
    assert await give(command, name, settings, tmp_path) == -signal.SIGKILL
    assert await state() == (command.before if place == "uncommitted" else command.after)
    assert await give(command, name, settings, tmp_path) == 0
    assert await state() == command.after
    await database.close()
