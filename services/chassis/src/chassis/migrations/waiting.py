"""Waits until a database can be reached, or until the database has the revisions that this code needs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
from alembic.script import ScriptDirectory

from chassis.config.settings import DatabaseSettings
from chassis.errors import HoldfastError
from chassis.migrations.revisions import alembic_config, missing_heads
from chassis.migrations.upgrading import upgrade

_POLL_SECONDS = 0.5
"""The pause between two checks. The pause is short compared with the start of a process, and long enough for the
server: a hundred waiting pods open 200 connections a second."""
_NOT_THERE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The driver's errors if the host name, server, role, database or table does not exist yet."""


class DatabaseNotReady(HoldfastError):
    """The database could not be reached in time, or did not receive the revisions that this code needs."""


async def migrate(
    settings: DatabaseSettings, *service_migrations: Path, timeout_seconds: float, tell: Callable[[str], None]
) -> None:
    """Wait until the database accepts the role that owns the schema, then `upgrade` the database.

    Calls `tell` with each new reason to wait. Raises `DatabaseNotReady` after `timeout_seconds`.
    """
    owner = settings.as_owner()

    async def check() -> str:
        connection = await _connect(owner)
        await connection.close(timeout=settings.connect_timeout)
        return ""

    await _wait(check, settings, timeout_seconds=timeout_seconds, tell=tell)
    await upgrade(settings, *service_migrations)


async def wait_for_schema(
    settings: DatabaseSettings, *service_migrations: Path, timeout_seconds: float, tell: Callable[[str], None]
) -> None:
    """Return once the database has the newest revision of the chassis and of each folder, or a later one.

    A database with a revision that this code does not know was migrated by newer code. The function accepts such a
    database: after a rollback, old code runs on the new schema, and each migration keeps old code working. The function
    connects as the role of the service's processes, which does not own the schema. The function waits while the
    database or its tables do not exist, and calls `tell` with each new reason. Raises `DatabaseNotReady` after
    `timeout_seconds`.
    """
    scripts = ScriptDirectory.from_config(alembic_config(service_migrations))

    async def check() -> str:
        missing = missing_heads(scripts, await _applied_revisions(settings))
        return f"it has no {', '.join(sorted(missing))} yet" if missing else ""

    await _wait(check, settings, timeout_seconds=timeout_seconds, tell=tell)


async def _wait(
    check: Callable[[], Awaitable[str]],
    settings: DatabaseSettings,
    *,
    timeout_seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Call `check`, which returns the reason to wait, until it returns an empty string."""
    address = f"{settings.name} at {settings.host}:{settings.port}"
    deadline = time.monotonic() + timeout_seconds
    last_reason = ""
    while True:
        try:
            reason = await check()
        except _NOT_THERE as error:
            # The reason is one line of text. Some time-out errors have no text, so the type's name is the reason.
            reason = " ".join(str(error).split()) or type(error).__name__
        if not reason:
            return
        if time.monotonic() + _POLL_SECONDS > deadline:
            raise DatabaseNotReady(f"{address} is not ready after {timeout_seconds:g} s: {reason}")
        if reason != last_reason:
            tell(f"waiting for {address}: {reason}")
            last_reason = reason
        await asyncio.sleep(_POLL_SECONDS)


async def _applied_revisions(settings: DatabaseSettings) -> set[str]:
    connection = await _connect(settings)
    try:
        return {row["version_num"] for row in await connection.fetch("SELECT version_num FROM alembic_version")}
    finally:
        await connection.close(timeout=settings.connect_timeout)


async def _connect(settings: DatabaseSettings) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=settings.password.get_secret_value(),
        database=settings.name,
        timeout=settings.connect_timeout,
        command_timeout=settings.statement_timeout,
    )
