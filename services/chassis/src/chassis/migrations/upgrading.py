"""Applies revisions: one process at a time, as the role that owns the schema."""

from pathlib import Path

from alembic import command
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.config.settings import DatabaseSettings
from chassis.migrations.revisions import alembic_config, missing_heads

_ADVISORY_LOCK = 4_801_726_311
"""An arbitrary number. Every process that migrates a database uses the same number."""
_LOCK_TIMEOUT_SECONDS = 5
"""The longest time that a migration waits for the lock of a table. While it waits, all other statements on the table
wait behind it."""


async def upgrade(settings: DatabaseSettings, *service_migrations: Path) -> None:
    """Bring the database to the newest revision of the chassis and of each folder in `service_migrations`.

    A folder holds its revision files in `versions`. The upgrade runs as the role that owns the schema. It raises
    `ConfigurationError` if the settings have no login for that role. Concurrent upgrades wait for one another. If no
    revision is missing, the upgrade changes nothing. That includes older code on a database that newer code has
    migrated.
    """
    engine = create_async_engine(
        _owner_url(settings),
        poolclass=pool.NullPool,
        hide_parameters=True,
        connect_args={"timeout": settings.connect_timeout},
    )
    try:
        async with engine.connect() as connection:
            # The session holds this lock, because each revision commits a transaction. The lock ends with the
            # connection.
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            await connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s'"))
            await connection.commit()
            await connection.run_sync(_upgrade, service_migrations)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, service_migrations: tuple[Path, ...]) -> None:
    config = alembic_config(service_migrations, connection=connection)
    applied = set(MigrationContext.configure(connection).get_current_heads())
    connection.rollback()  # each revision begins its own transaction
    if missing_heads(ScriptDirectory.from_config(config), applied):
        command.upgrade(config, "heads")


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
