"""What surrounds a service here: pools that are closed, other people's servers, and a Redis that is never slow."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from backends import FreshDatabase
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.pooling import Database
from customers import Webhooks, customer_server, webhook_settings
from harness import AUTH, UNLIMITED, FakeServer, fake_server, running
from notifications.api import create_app as create_notifications
from notifications.settings import NotificationsSettings
from notifications.webhook_sender import WebhookSender
from redis.asyncio import Redis

type OpenDatabase = Callable[[DatabaseSettings], Database]


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
    empty_database: FreshDatabase, open_database: OpenDatabase, patient_redis: RedisSettings, redis: Redis
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
