"""A database per service, emptied for each test, and a Redis that a busy machine does not make look broken."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest
from backends import RealServer
from chassis.config import Live
from chassis.pooling import Database
from chassis.settings import DatabaseSettings, RedisSettings
from customers import Webhooks, customer_server, webhook_settings
from harness import AUTH, UNLIMITED, FakeServer, fake_server, running
from notifications.api import create_app as create_notifications
from notifications.settings import NotificationsSettings
from notifications.webhook_sender import WebhookSender
from redis.asyncio import Redis

type MakeDatabase = Callable[[str], Awaitable[DatabaseSettings]]
type OpenDatabase = Callable[[DatabaseSettings], Database]

# DELETE, since the tables are nearly empty and TRUNCATE makes new files. Foreign keys need not be looked at: all go.
_EMPTY = """
SET session_replication_role = replica;
DO $$ DECLARE place text; BEGIN
    FOR place IN
        SELECT tablename FROM pg_tables
        WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'product', 'api_key')
    LOOP
        EXECUTE format('DELETE FROM %I', place);
    END LOOP;
END $$
"""


@pytest.fixture(scope="session")
async def empty_database(fresh_database: MakeDatabase, postgres: RealServer) -> AsyncIterator[MakeDatabase]:
    """A service's database without rows but those of its migrations: emptying one is faster than making one."""
    made: dict[str, tuple[DatabaseSettings, asyncpg.Connection]] = {}

    async def open_new(package: str) -> tuple[DatabaseSettings, asyncpg.Connection]:
        settings = await fresh_database(package)
        connection = await asyncpg.connect(postgres.dsn, database=settings.name)
        return settings, connection

    async def make(package: str) -> DatabaseSettings:
        if package not in made:
            made[package] = await open_new(package)
        settings, connection = made[package]
        await connection.execute(_EMPTY)
        return settings

    yield make
    for _, connection in made.values():
        await connection.close()


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
        async with running(create_notifications(Live(service))) as client_of:
            yield Webhooks(open_database(database), redis, client_of, customer, settings, sender)
        await sender.close()
