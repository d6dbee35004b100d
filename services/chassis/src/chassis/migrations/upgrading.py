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
"""The key of the advisory lock that lets one process at a time migrate a database. The number is arbitrary."""
_LOCK_TIMEOUT_SECONDS = 5
"""The longest time that a migration waits for the lock of a table. While a migration waits, all later statements on the
table wait behind the migration."""


async def upgrade(settings: DatabaseSettings, *service_migrations: Path) -> None:
    """Bring the database to the newest revision of the chassis and of each folder in `service_migrations`.

    A folder holds its revision files in `versions`. The upgrade runs as the role that owns the schema. The upgrade
    raises `ConfigurationError` if the settings have no login for that role. Concurrent upgrades run one after the
    other. If the database has all revisions of this code, the upgrade changes nothing. Older code also changes nothing
    in a database that newer code has migrated.
    """
    engine = create_async_engine(
        _owner_url(settings),
        poolclass=pool.NullPool,
        hide_parameters=True,
        connect_args={"timeout": settings.connect_timeout},
    )
    try:
        async with engine.connect() as connection:
            # This advisory lock belongs to the session, so the end of the connection frees the lock. A lock that
            # belongs to a transaction would be free after the first revision, because each revision commits its
            # transaction.
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            await connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s'"))
            await connection.commit()
            await connection.run_sync(_upgrade, service_migrations)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, service_migrations: tuple[Path, ...]) -> None:
    config = alembic_config(service_migrations, connection=connection)
    applied = set(MigrationContext.configure(connection).get_current_heads())
    connection.rollback()  # ends the query's transaction, because each revision begins a new transaction
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
