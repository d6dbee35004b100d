"""Migrations: the chassis brings its own tables (jobs, outbox, inbox, idempotency), each service adds its revisions.

A service's first revision has `depends_on = "chassis_0001"`, so that one `upgrade heads` runs both in order.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.config.settings import DatabaseSettings
from chassis.errors import HoldfastError

_HERE = Path(__file__).parent
# Any constant: it only has to be the same for everybody who migrates this database.
_ADVISORY_LOCK = 4_801_726_311
_LOCK_TIMEOUT_SECONDS = 5
"""A statement that changes a table waits no longer for it: everyone else would queue up behind the wait."""
_POLL_SECONDS = 0.5
"""Short beside a start, and few connections even from a hundred pods that wait."""
_NOT_THERE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver says while name, server, role, database or table are not there."""


class DatabaseNotReady(HoldfastError):
    """The database could not be reached, or did not get the revisions that this code needs, in time."""


async def migrate(
    settings: DatabaseSettings, *service_migrations: Path, timeout_seconds: float, tell: Callable[[str], None]
) -> None:
    """`upgrade`, once the database can be reached as the role that owns the schema.

    While it cannot, it goes on asking, and tells each new reason once. Raises `DatabaseNotReady` after
    `timeout_seconds`.
    """
    url = _owner_url(settings)

    async def look() -> str:
        connection = await _connect(settings, user=str(url.username), password=str(url.password))
        await connection.close(timeout=settings.connect_timeout)
        return ""

    await _wait(look, settings, timeout_seconds=timeout_seconds, tell=tell)
    await upgrade(settings, *service_migrations)


async def upgrade(settings: DatabaseSettings, *service_migrations: Path) -> None:
    """Bring the database to the newest revision of the chassis and of each folder in `service_migrations`.

    A folder holds revision files in `versions`. Runs as the role that owns the schema; two runs at once wait for one
    another, and a run with nothing to do changes nothing: one of older code too, after newer code has migrated. Raises
    `ConfigurationError` without that role's login.
    """
    engine = create_async_engine(
        _owner_url(settings),
        poolclass=pool.NullPool,
        hide_parameters=True,
        connect_args={"timeout": settings.connect_timeout},
    )
    try:
        async with engine.connect() as connection:
            # Held by the session, not a transaction: each revision commits by itself. Ends with the connection.
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            await connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s'"))
            await connection.commit()
            await connection.run_sync(_upgrade, service_migrations)
    finally:
        await engine.dispose()


async def wait_for_schema(
    settings: DatabaseSettings, *service_migrations: Path, timeout_seconds: float, tell: Callable[[str], None]
) -> None:
    """Return as soon as the database is at the newest revision of the chassis and of each folder, or beyond it.

    A revision that this code does not know is newer than it: after a rollback the old code runs on the new schema, for
    which migrations are written. Needs no more than the role of run time. While name, server, role, database or table
    are not there it goes on asking, and tells each new reason once. Raises `DatabaseNotReady` after `timeout_seconds`.
    """
    scripts = ScriptDirectory.from_config(_config(service_migrations))

    async def look() -> str:
        behind = _behind(scripts, await _applied_revisions(settings))
        return f"it has no {', '.join(sorted(behind))} yet" if behind else ""

    await _wait(look, settings, timeout_seconds=timeout_seconds, tell=tell)


async def _wait(
    look: Callable[[], Awaitable[str]],
    settings: DatabaseSettings,
    *,
    timeout_seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Look until `look` gives no reason to wait any more; it looks once in any case."""
    place = f"{settings.name} at {settings.host}:{settings.port}"
    deadline = time.monotonic() + timeout_seconds
    told = ""
    while True:
        try:
            reason = await look()
        except _NOT_THERE as error:
            reason = " ".join(str(error).split()) or type(error).__name__  # on one line; some time-outs say nothing
        if not reason:
            return
        if time.monotonic() + _POLL_SECONDS > deadline:
            raise DatabaseNotReady(f"{place} is not ready after {timeout_seconds:g} s: {reason}")
        if reason != told:
            tell(f"waiting for {place}: {reason}")
            told = reason
        await asyncio.sleep(_POLL_SECONDS)


async def _applied_revisions(settings: DatabaseSettings) -> set[str]:
    connection = await _connect(settings, user=settings.user, password=settings.password.get_secret_value())
    try:
        return {row["version_num"] for row in await connection.fetch("SELECT version_num FROM alembic_version")}
    finally:
        await connection.close(timeout=settings.connect_timeout)


async def _connect(settings: DatabaseSettings, *, user: str, password: str) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=user,
        password=password,
        database=settings.name,
        timeout=settings.connect_timeout,
        command_timeout=settings.statement_timeout,
    )


def _behind(scripts: ScriptDirectory, applied: set[str]) -> set[str]:
    """The newest revisions of this code that the database has not reached."""
    known = applied & {script.revision for script in scripts.walk_revisions()}
    reached = {revision for one in known for revision in _lineage(scripts, one)}
    behind = set(scripts.get_heads()) - reached
    if applied == known:
        return behind
    # Somebody newer was here. What it left at a revision that we know, it was older in.
    return {head for head in behind if known & _lineage(scripts, head)}


def _lineage(scripts: ScriptDirectory, revision: str) -> set[str]:
    """The revision and all that come before it."""
    return {script.revision for script in scripts.iterate_revisions(revision, "base")}


def _upgrade(connection: Connection, service_migrations: tuple[Path, ...]) -> None:
    config = _config(service_migrations, connection=connection)
    applied = set(MigrationContext.configure(connection).get_current_heads())
    connection.rollback()  # each revision begins a transaction of its own
    if _behind(ScriptDirectory.from_config(config), applied):
        command.upgrade(config, "heads")


def _config(service_migrations: tuple[Path, ...], **attributes: object) -> Config:
    config = Config(attributes=attributes)
    locations = [folder / "versions" for folder in (_HERE, *service_migrations)]
    config.set_main_option("script_location", str(_HERE))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(location) for location in locations))
    return config


def _owner_url(settings: DatabaseSettings) -> URL:
    owner = settings.as_owner()
    return URL.create(
        "postgresql+asyncpg",
        username=owner.user,
        password=owner.password.get_secret_value(),
        host=owner.host,
        port=owner.port,
        database=owner.name,
    )
