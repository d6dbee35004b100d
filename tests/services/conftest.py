"""A database per service, emptied for each test, and a Redis that a busy machine does not make look broken."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest
from chassis.pooling import Database
from chassis.settings import DatabaseSettings, RedisSettings
from customers import Webhooks, customer_server, webhook_settings
from harness import AUTH, UNLIMITED, FakeServer, fake_server, running
from holdfast_local.postgres import EmbeddedPostgres
from notifications.api import create_app as create_notifications
from notifications.settings import NotificationsSettings
from notifications.webhook_sender import WebhookSender
from redis.asyncio import Redis

type MakeDatabase = Callable[[str], Awaitable[DatabaseSettings]]
type OpenDatabase = Callable[[DatabaseSettings], Database]

_TABLES = """
SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables
WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'product')
"""


@pytest.fixture(scope="session")
async def empty_database(fresh_database: MakeDatabase, postgres: EmbeddedPostgres) -> MakeDatabase:
    """A service's database without rows but those of its migrations: emptying one is faster than making one."""
    made: dict[str, DatabaseSettings] = {}

    async def make(package: str) -> DatabaseSettings:
        if package not in made:
            made[package] = await fresh_database(package)
        settings = made[package]
        connection = await asyncpg.connect(postgres.dsn, database=settings.name)
        try:
            # As a service's is: a foreign key is checked with the rights of its table's owner.
            await connection.execute(f'ALTER DATABASE "{settings.name}" OWNER TO "{settings.migration_user}"')
            await connection.execute(f"TRUNCATE {await connection.fetchval(_TABLES)} RESTART IDENTITY")
        finally:
            await connection.close()
        return settings

    return make


@pytest.fixture
def patient_redis(redis: Redis, redis_settings: RedisSettings) -> RedisSettings:
    """The settings of an empty Redis whose commands have time."""
    return redis_settings.model_copy(update={"timeout": 2.0})


@pytest.fixture
async def open_database() -> AsyncIterator[OpenDatabase]:
    """Opens pools that the end of the test closes."""
    async with AsyncExitStack() as stack:

        def open_one(settings: DatabaseSettings) -> Database:
            database = Database(settings, pool="test", application_name="test")
            stack.push_async_callback(database.close)
            return database

        yield open_one


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """The one HTTP service that the service under test calls."""
    async with fake_server() as server:
        yield server


@pytest.fixture
async def webhooks(
    empty_database: MakeDatabase, open_database: OpenDatabase, patient_redis: RedisSettings, redis: Redis
) -> AsyncIterator[Webhooks]:
    """Notifications with a customer's server that its webhooks may reach."""
    database = await empty_database("notifications")
    async with customer_server() as customer:
        settings = webhook_settings(customer.port)
        service = NotificationsSettings(
            database=database, redis=patient_redis, auth=AUTH, rate_limit=UNLIMITED, webhooks=settings
        )
        sender = WebhookSender(settings)
        async with running(create_notifications(service)) as client_of:
            yield Webhooks(open_database(database), redis, client_of, customer, settings, sender)
        await sender.close()
