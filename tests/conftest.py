"""What every test may use: a real PostgreSQL and a real Valkey, started once, and a fresh database for each test."""

import gc
import itertools
import os
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest
from api_keys import keep_keys
from backends import VARIABLE, Backend, FreshDatabase, RealServer, UnknownBackend, choose
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.migrations import upgrade
from chassis.pooling import Database, create_redis
from emptying import Emptied
from holdfast_local.databases import create_database
from pydantic import SecretStr
from redis.asyncio import Redis
from sql_shapes import repeated_picks
from sqlalchemy import Engine, event
from xdist.workermanage import WorkerController

PASSWORD = "only-for-tests"
_INSTALLATION = UUID(int=1)

_TESTS = Path(__file__).parent


@event.listens_for(Engine, "before_cursor_execute")
def _refuse_repeated_picks(_connection: object, _cursor: object, statement: str, *_: object) -> None:
    """What SQLAlchemy writes is seen when a test runs it."""
    assert repeated_picks(statement) == (), statement


BACKEND = pytest.StashKey[Backend]()
BACKEND_NAME = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Choose the back end before anything is collected, and drop every variable of ours: services that tests start
    would be told by them, and refuse the back end's, since they know no setting of that name.
    """
    given: dict[str, str] = getattr(config, "workerinput", os.environ)  # a process of several is told by the first one
    try:
        config.stash[BACKEND] = choose(given)
    except UnknownBackend as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[BACKEND_NAME] = given.get(VARIABLE, "")
    for name in [name for name in os.environ if name.startswith(("HOLDFAST_", "LOCAL_"))]:
        del os.environ[name]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What takes minutes is not collected unless its folder, or something in it, is named on the command line."""
    if collection_path not in {_TESTS / "crash", _TESTS / "failures", _TESTS / "images"}:
        return None
    named = [Path(argument.partition("::")[0]).absolute() for argument in config.args]
    return None if any(path.is_relative_to(collection_path) for path in named) else True


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None]:
    """Collect the tests without garbage collection, and exclude their objects from it later: they live as long as the
    process. Collecting takes a sixth less time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput[VARIABLE] = node.config.stash[BACKEND_NAME]


@pytest.fixture(scope="session")
async def postgres(pytestconfig: pytest.Config) -> AsyncIterator[RealServer]:
    async with pytestconfig.stash[BACKEND].postgres() as server:
        yield server


@pytest.fixture(scope="session")
async def redis_settings(pytestconfig: pytest.Config) -> AsyncIterator[RedisSettings]:
    async with pytestconfig.stash[BACKEND].valkey() as server:
        parts = urlsplit(server.dsn)
        assert parts.hostname
        assert parts.port
        yield RedisSettings(
            host=parts.hostname, port=parts.port, password=SecretStr(parts.password or ""), prefix="test"
        )


@pytest.fixture
async def redis(redis_settings: RedisSettings) -> AsyncIterator[Redis]:
    """An empty Redis, with time-outs that a busy machine does not reach."""
    client = create_redis(redis_settings, timeout=5)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
async def fresh_database(postgres: RealServer) -> FreshDatabase:
    """By copying a migrated one."""
    numbers = itertools.count(1)
    templates: dict[str, str] = {}

    async def make(package: str) -> DatabaseSettings:
        if package not in templates:
            templates[package] = await _migrated_template(postgres, package)
        name = f"test_{next(numbers)}"
        async with _connected(postgres, "postgres") as admin:
            await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{templates[package]}" OWNER test_owner')
        return _settings(postgres, name)

    return make


@pytest.fixture(scope="session")
async def empty_database(fresh_database: FreshDatabase, postgres: RealServer) -> AsyncIterator[FreshDatabase]:
    """By emptying the one of the test before, which must have the same tables still."""
    made: dict[str, Emptied] = {}

    async def make(package: str) -> DatabaseSettings:
        if package not in made:
            made[package] = Emptied(postgres, await fresh_database(package), package)
        await made[package].empty()
        return made[package].settings

    yield make
    for database in made.values():
        await database.close()


@pytest.fixture
async def database_settings(empty_database: FreshDatabase) -> DatabaseSettings:
    """A database with the chassis' tables, empty."""
    return await empty_database("")


@pytest.fixture
async def database(database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    pool = Database(database_settings, pool="test", application_name="test")
    yield pool
    await pool.close()


async def _migrated_template(postgres: RealServer, package: str) -> str:
    name = f"template_{package or 'chassis'}"
    await create_database(postgres.dsn, name=name, owner=("test_owner", PASSWORD), runtime=("test_app", PASSWORD))
    folders = [Path(import_module(package).__path__[0]) / "migrations"] if package else []
    await upgrade(_settings(postgres, name), *folders)
    async with _connected(postgres, name) as connection:
        await keep_keys(connection, package)
        # One installation for all tests of this Valkey: processes of one test find what those before it left there.
        await connection.execute("UPDATE installation SET id = $1", _INSTALLATION)
    return name


def _settings(postgres: RealServer, name: str) -> DatabaseSettings:
    parts = urlsplit(postgres.dsn)
    assert parts.hostname
    assert parts.port
    return DatabaseSettings(
        host=parts.hostname,
        port=parts.port,
        name=name,
        user="test_app",
        password=SecretStr(PASSWORD),
        migration_user="test_owner",
        migration_password=SecretStr(PASSWORD),
        held_calls="refuse",
    )


@asynccontextmanager
async def _connected(postgres: RealServer, database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres.dsn, database=database)
    try:
        yield connection
    finally:
        await connection.close()
