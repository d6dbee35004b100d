"""A pod waits for its schema: through all that is not there yet, past what is older, and not for what is newer."""

import asyncio
import signal
import socket
import sys
from pathlib import Path
from uuid import uuid4

import asyncpg
import orders
import pytest
from backends import FreshDatabase, RealServer
from chassis.config.settings import DatabaseSettings
from chassis.migrations import DatabaseNotReady, migrate, upgrade, wait_for_schema
from holdfast_local.databases import create_database
from holdfast_local.ports import free_port
from pydantic import SecretStr
from service_process import OrdersInstallation
from waiting import eventually

_REVISION = """
from alembic import op

revision = "{branch}_{number:04}"
down_revision = {down!r}
branch_labels = {labels!r}
depends_on = {depends!r}


def upgrade() -> None:
    op.execute("CREATE TABLE {branch}_{number} (id bigint PRIMARY KEY)")
"""

_ORDERS = Path(orders.__file__).parent / "migrations" / "versions"
NEWEST = f"orders_{max(_ORDERS.glob('0*.py')).name[:4]}"


class Waiting:
    """A wait under way, and what it has told."""

    def __init__(self, settings: DatabaseSettings, *folders: Path, seconds: float = 30) -> None:
        self.told: list[str] = []
        self.ended = asyncio.create_task(wait_for_schema(settings, *folders, timeout_seconds=seconds, tell=self._tell))
        self._heard = asyncio.Event()

    def _tell(self, line: str) -> None:
        self.told.append(line)
        self._heard.set()

    async def hears(self, part: str) -> None:
        async with asyncio.timeout(15):
            while part not in "\n".join(self.told):
                self._heard.clear()
                await self._heard.wait()


@pytest.fixture
def settings(database_settings: DatabaseSettings, unique: str) -> DatabaseSettings:
    """Of a database that is not there, nor its roles."""
    return database_settings.model_copy(
        update={
            "name": unique,
            "user": f"{unique}_app",
            "password": SecretStr("r"),
            "migration_user": f"{unique}_owner",
            "migration_password": SecretStr("o"),
        }
    )


@pytest.fixture
def unique() -> str:
    return f"shop_{uuid4().hex}"


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A service's migrations as they were released first."""
    return write_revisions(tmp_path / "one", 1)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The same service's, one release later."""
    return write_revisions(tmp_path / "two", 2)


def write_revisions(folder: Path, count: int, *, branch: str = "shop") -> Path:
    (folder / "versions").mkdir(parents=True)
    for number in range(1, count + 1):
        is_first = number == 1
        text = _REVISION.format(
            branch=branch,
            number=number,
            down=None if is_first else f"{branch}_{number - 1:04}",
            labels=(branch,) if is_first else None,
            depends="chassis_0001" if is_first else None,
        )
        (folder / "versions" / f"{number:04}_{branch}.py").write_text(text)
    return folder


async def create(postgres: RealServer, settings: DatabaseSettings) -> None:
    owner, runtime = (f"{settings.name}_owner", "o"), (settings.user, "r")
    await create_database(postgres.dsn, name=settings.name, owner=owner, runtime=runtime)


async def test_it_outlasts_whatever_is_not_there_and_returns_when_the_schema_is(
    postgres: RealServer, settings: DatabaseSettings, one: Path
) -> None:
    waiting = Waiting(settings, one)
    await waiting.hears(f'password authentication failed for user "{settings.user}"')
    await create(postgres, settings)
    await waiting.hears('relation "alembic_version" does not exist')
    await upgrade(settings)
    await waiting.hears("it has no shop_0001 yet")
    assert not waiting.ended.done()
    await upgrade(settings, one)
    await asyncio.wait_for(waiting.ended, timeout=15)
    assert len(waiting.told) == len(set(waiting.told))


async def test_a_server_that_does_not_listen_yet_is_waited_for(settings: DatabaseSettings, one: Path) -> None:
    port = free_port()
    with pytest.raises(DatabaseNotReady, match=f"{settings.name} at {settings.host}:{port} .*Connect call failed"):
        await Waiting(settings.model_copy(update={"port": port}), one, seconds=0.1).ended


async def test_a_server_whose_name_is_not_known_yet_is_waited_for(settings: DatabaseSettings, one: Path) -> None:
    waiting = Waiting(settings.model_copy(update={"host": "postgres.invalid"}), one)
    await waiting.hears(f"waiting for {settings.name} at postgres.invalid:{settings.port}: ")
    waiting.ended.cancel()


async def test_a_server_that_accepts_and_says_nothing_does_not_hold_it_beyond_its_time(
    settings: DatabaseSettings, one: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody ever reads
        update = {"host": "127.0.0.1", "port": silent.getsockname()[1], "connect_timeout": 0.2}
        with pytest.raises(DatabaseNotReady, match="is not ready after 1 s: TimeoutError"):
            await asyncio.wait_for(Waiting(settings.model_copy(update=update), one, seconds=1).ended, timeout=10)


async def test_an_older_schema_is_waited_for_until_the_time_is_up(
    postgres: RealServer, settings: DatabaseSettings, one: Path, two: Path
) -> None:
    await create(postgres, settings)
    await upgrade(settings, one)
    with pytest.raises(DatabaseNotReady, match=r"after 0\.1 s: it has no shop_0002 yet"):
        await Waiting(settings, two, seconds=0.1).ended


async def test_after_a_rollback_older_code_runs_on_the_newer_schema_and_its_migration_changes_nothing(
    postgres: RealServer, settings: DatabaseSettings, one: Path, two: Path
) -> None:
    await create(postgres, settings)
    await upgrade(settings, two)
    waiting = Waiting(settings, one)
    await asyncio.wait_for(waiting.ended, timeout=15)
    assert waiting.told == []
    await migrate(settings, one, timeout_seconds=0, tell=waiting.told.append)
    assert waiting.told == []
    assert await revisions(postgres, settings) == {"shop_0002"}


async def test_a_revision_of_another_branch_that_is_not_known_does_not_stand_for_one_that_is_missing(
    postgres: RealServer, settings: DatabaseSettings, one: Path, two: Path, tmp_path: Path
) -> None:
    await create(postgres, settings)
    await upgrade(settings, one, write_revisions(tmp_path / "other", 1, branch="other"))
    with pytest.raises(DatabaseNotReady, match="it has no shop_0002 yet"):
        await Waiting(settings, two, seconds=0.1).ended


async def test_the_command_waits_as_the_role_of_run_time_and_says_why_it_gave_up(
    tmp_path: Path, fresh_database: FreshDatabase, database_settings: DatabaseSettings, redis_settings: object
) -> None:
    installation = OrdersInstallation.create(tmp_path, await fresh_database("orders"), redis_settings)
    assert (await installation.run("wait-for-schema")).code == 0
    installation.set("database__name", database_settings.name)  # which has the tables of the chassis only
    ended = await installation.run("wait-for-schema", "--timeout", "0.1")
    place = f"{database_settings.name} at {database_settings.host}:{database_settings.port}"
    assert (ended.code, ended.stderr) == (1, f"{place} is not ready after 0.1 s: it has no {NEWEST} yet\n")


async def test_a_migration_waits_for_its_role_and_its_database(
    postgres: RealServer, settings: DatabaseSettings, one: Path
) -> None:
    told: list[str] = []
    migrating = asyncio.create_task(migrate(settings, one, timeout_seconds=30, tell=told.append))
    await eventually(lambda: asyncio.sleep(0, bool(told)))
    await create(postgres, settings)
    await asyncio.wait_for(migrating, timeout=15)
    assert told[0].endswith(f'password authentication failed for user "{settings.name}_owner"')
    assert await revisions(postgres, settings) == {"shop_0001"}


async def test_a_migration_without_a_server_ends_with_one_line_that_says_where_it_looked(
    tmp_path: Path, database_settings: DatabaseSettings, redis_settings: object
) -> None:
    installation = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    port = free_port()
    installation.set("database__port", str(port))
    installation.set("database__migration_user", "nobody")
    installation.secret("database__migration_password", "only-for-this-test")
    ended = await installation.run("migrate")
    assert ended.code == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{database_settings.name} at {database_settings.host}:{port} is not ready after 0 s: ")
    assert "only-for-this-test" not in line


async def test_sigterm_ends_a_wait_at_once(
    tmp_path: Path, database_settings: DatabaseSettings, redis_settings: object
) -> None:
    installation = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    waiting = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("orders"), "wait-for-schema"),
        cwd=tmp_path,
        env=installation.variables,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert waiting.stdout
        assert f"it has no {NEWEST} yet".encode() in await asyncio.wait_for(waiting.stdout.readline(), timeout=15)
        waiting.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(waiting.wait(), timeout=10) == 128 + signal.SIGTERM
    finally:
        if waiting.returncode is None:
            waiting.kill()


async def revisions(postgres: RealServer, settings: DatabaseSettings) -> set[str]:
    connection = await asyncpg.connect(
        host=settings.host, port=settings.port, database=settings.name, user=settings.user, password="r"
    )
    try:
        rows = await connection.fetch("SELECT version_num FROM alembic_version")
        return {row["version_num"] for row in rows if row["version_num"].startswith("shop_")}
    finally:
        await connection.close()
