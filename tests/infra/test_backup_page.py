"""docs/tutorial/backup.md: its commands back up a server like the bare machine's, and bring it back to a moment."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import asyncpg
import psutil
import pytest
from holdfast_local.placement import passable_folder
from holdfast_local.ports import free_port
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.settings import PROJECT
from waiting import eventually

PASSWORD = "a-superusers"
RECEIVER = "receiver.pid"


def blocks() -> list[str]:
    """What the page gives to a shell, in order: surroundings, one database, the whole server, the restore."""
    page = (PROJECT / "docs" / "tutorial" / "backup.md").read_text()
    return [
        re.sub(r"^ {3}", "", block, flags=re.MULTILINE)
        for block in re.findall(r"^ *```sh\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    ]


@pytest.fixture
async def tree() -> AsyncIterator[Path]:
    """A folder like the project's after `make up`: programs and passwords are where the page looks for them."""
    with passable_folder(prefix="holdfast-backup-") as folder:
        (folder / ".venv").symlink_to(sys.prefix)
        secrets = folder / ".holdfast" / "secrets" / "platform"
        secrets.mkdir(parents=True)
        (secrets / "postgres_password").write_text(PASSWORD)
        yield folder
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            psutil.Process(int((folder / RECEIVER).read_text())).kill()


async def run(tree: Path, script: str) -> str:
    """What it printed."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", script, cwd=tree, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def place(server: EmbeddedPostgres, *numbers: int) -> None:
    connection = await asyncpg.connect(server.dsn, database="orders")
    await connection.executemany("INSERT INTO placed VALUES ($1)", [(number,) for number in numbers])
    await connection.close()


async def placed(server: EmbeddedPostgres, database: str = "orders") -> list[int]:
    connection = await asyncpg.connect(server.dsn, database=database)
    numbers = [row["number"] for row in await connection.fetch("SELECT number FROM placed ORDER BY number")]
    await connection.close()
    return numbers


async def now(server: EmbeddedPostgres) -> datetime:
    connection = await asyncpg.connect(server.dsn)
    moment = await connection.fetchval("SELECT clock_timestamp()")
    await connection.close()
    return moment


async def test_the_commands_of_the_page_bring_a_server_back_to_the_moment_before_a_mistake(tree: Path) -> None:
    server = EmbeddedPostgres(
        tree / ".holdfast" / "postgres", port=free_port(), password=PASSWORD, log=tree / "postgres.log"
    )
    surroundings, one_database, whole_server, restore = blocks()
    surroundings = surroundings.replace("PGPORT=25432", f"PGPORT={server.port}")
    again = surroundings.replace("mkdir -m 700 backup backup/wal\n", "")
    assert again != surroundings
    async with server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("CREATE DATABASE orders")
        await connection.close()
        connection = await asyncpg.connect(server.dsn, database="orders")
        await connection.execute("CREATE TABLE placed (number int)")
        await connection.close()
        await place(server, 1)

        await run(tree, surroundings + one_database)
        assert await placed(server, "restored") == [1]

        # The receiver goes on when its shell has ended, and does not hold that shell's output open.
        in_background = re.sub(r" &$", f" >receiver.log 2>&1 &\necho $! >{RECEIVER}", whole_server, flags=re.MULTILINE)
        assert "backup successfully verified" in await run(tree, again + in_background)
        await place(server, 2)
        moment = await now(server)
        await place(server, 3)

    receiver = psutil.Process(int((tree / RECEIVER).read_text()))
    receiver.terminate()

    async def has_ended() -> bool:
        return not receiver.is_running() or receiver.status() == psutil.STATUS_ZOMBIE

    await eventually(has_ended)
    restore, changed = re.subn(r"recovery_target_time = '[^']+'", f"recovery_target_time = '{moment}'", restore)
    assert changed == 1
    await run(tree, restore)
    if server.account is not None:  # we are root: the page's command for that
        await run(tree, "chown -R --reference=.holdfast/postgres .holdfast/postgres/data backup")
    async with server:
        assert await placed(server) == [1, 2]
        await place(server, 4)  # it takes writes: the restore is complete
