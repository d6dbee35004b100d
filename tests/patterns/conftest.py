"""A connection that hears wake-ups, and an administrator's to the same database."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings
from chassis.pooling.wakeup import Wakeups


@pytest.fixture
async def wakeups(database_settings: DatabaseSettings) -> AsyncIterator[Wakeups]:
    async with Wakeups(database_settings, application_name="test") as wakeups:
        yield wakeups


@pytest.fixture
async def effects(database_settings: DatabaseSettings, postgres: RealServer) -> AsyncIterator[asyncpg.Connection]:
    """An administrator's connection to the database, where it has made the table `effect`."""
    connection = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    await connection.execute("CREATE TABLE effect (job_id bigint, attempt int, pid int, what text)")
    await connection.execute("GRANT SELECT, INSERT ON effect TO PUBLIC")
    yield connection
    await connection.close()
