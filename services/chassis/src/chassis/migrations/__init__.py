"""Migrations: the chassis brings its own tables (jobs, outbox, inbox, idempotency), each service adds its revisions.

A service's first revision has `depends_on = "chassis_0001"`, so that one `upgrade heads` runs both in order.
"""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.errors import ConfigurationError
from chassis.settings import DatabaseSettings

_HERE = Path(__file__).parent
# Any constant: it only has to be the same for everybody who migrates this database.
_ADVISORY_LOCK = 4_801_726_311
_LOCK_TIMEOUT_SECONDS = 5
"""A statement that changes a table waits no longer for it: everyone else would queue up behind the wait."""


def migrate(settings: DatabaseSettings, service_migrations: Path) -> None:
    """Bring the service's database to the newest revision of the chassis and of the service; see `upgrade`."""
    asyncio.run(upgrade(settings, service_migrations))


async def upgrade(settings: DatabaseSettings, *service_migrations: Path) -> None:
    """Bring the database to the newest revision of the chassis and of each folder in `service_migrations`.

    A folder holds revision files in `versions`. Runs as the role that owns the schema; two runs at once wait for one
    another, and a run with nothing to do changes nothing. Raises `ConfigurationError` without that role's login.
    """
    engine = create_async_engine(_owner_url(settings), poolclass=pool.NullPool, hide_parameters=True)
    try:
        async with engine.connect() as connection:
            # Held by the session, not a transaction: each revision commits by itself. Ends with the connection.
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            await connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s'"))
            await connection.commit()
            await connection.run_sync(_upgrade, service_migrations)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, service_migrations: tuple[Path, ...]) -> None:
    config = Config(attributes={"connection": connection})
    locations = [folder / "versions" for folder in (_HERE, *service_migrations)]
    config.set_main_option("script_location", str(_HERE))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(location) for location in locations))
    command.upgrade(config, "heads")


def _owner_url(settings: DatabaseSettings) -> URL:
    if settings.migration_user is None or settings.migration_password is None:
        raise ConfigurationError(
            [f"HOLDFAST_DATABASE__{name} is needed to migrate" for name in ("MIGRATION_USER", "MIGRATION_PASSWORD")]
        )
    return URL.create(
        "postgresql+asyncpg",
        username=settings.migration_user,
        password=settings.migration_password.get_secret_value(),
        host=settings.host,
        port=settings.port,
        database=settings.name,
    )
