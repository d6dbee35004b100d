"""A migration dies at each of its commits, and the next one ends what it began."""

import asyncio
import os
import signal
import sys
from itertools import count
from pathlib import Path

import asyncpg
from backends import RealServer
from chassis.config.settings import DatabaseSettings
from chassis.migrations import upgrade
from crash_points import CrashPoints
from holdfast_local.databases import create_database
from points import MIGRATION_POINT
from pydantic import SecretStr

SERVICE = "notifications"
FOLDER = Path(__file__).parent
MIGRATIONS = FOLDER.parents[1] / "services" / SERVICE / "src" / SERVICE / "migrations"

_SCHEMA = """
    SELECT 'column', table_name, column_name, data_type || is_nullable || COALESCE(column_default, '')
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'revision', '', '', version_num FROM alembic_version
    ORDER BY 1, 2, 3, 4
"""


async def empty_database(server: RealServer, settings: DatabaseSettings, name: str) -> DatabaseSettings:
    await create_database(server.dsn, name=name, owner=("crash_owner", "o"), runtime=("crash_app", "r"))
    logins = {"user": "crash_app", "password": SecretStr("r"), "migration_user": "crash_owner"}
    return settings.model_copy(update={"name": name, **logins, "migration_password": SecretStr("o")})


async def schema(settings: DatabaseSettings) -> list[tuple[str, ...]]:
    assert settings.migration_password
    connection = await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.migration_user,
        password=settings.migration_password.get_secret_value(),
        database=settings.name,
    )
    try:
        return [tuple(row) for row in await connection.fetch(_SCHEMA)]
    finally:
        await connection.close()


async def migrate(settings: DatabaseSettings, folder: Path) -> int:
    """The exit code of a process that migrates, unless it dies where it is armed to."""
    assert settings.migration_password
    variables = {
        "HOST": settings.host,
        "PORT": str(settings.port),
        "NAME": settings.name,
        "USER": settings.user,
        "PASSWORD": settings.password.get_secret_value(),
        "MIGRATION_USER": str(settings.migration_user),
        "MIGRATION_PASSWORD": settings.migration_password.get_secret_value(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        FOLDER / "crash_process.py",
        folder,
        SERVICE,
        "migrate",
        env=dict(os.environ) | {f"HOLDFAST_DATABASE__{name}": value for name, value in variables.items()},
    )
    return await process.wait()


async def test_a_migration_dies_at_each_of_its_commits_and_the_next_one_ends_it(
    postgres: RealServer, database_settings: DatabaseSettings, tmp_path: Path
):
    whole = await empty_database(postgres, database_settings, "undisturbed")
    await upgrade(whole, MIGRATIONS)
    for arrival in count(1):
        settings = await empty_database(postgres, database_settings, f"killed_{arrival}")
        CrashPoints.arm(tmp_path, f"{SERVICE}-migrate", MIGRATION_POINT, arrival=arrival)
        code = await migrate(settings, tmp_path)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        await upgrade(settings, MIGRATIONS)
        assert await schema(settings) == await schema(whole)
    assert arrival > 3
