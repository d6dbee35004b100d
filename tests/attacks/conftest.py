"""The API that is attacked, and each of its ports."""

from collections.abc import AsyncIterator

import pytest
from attacked_shop import Shop, open_shop
from chassis.config.settings import DatabaseSettings
from chassis.pooling import Database
from redis.asyncio import Redis


@pytest.fixture
async def shop(database: Database, database_settings: DatabaseSettings, redis: Redis) -> AsyncIterator[Shop]:
    async with open_shop(database, database_settings, redis) as shop:
        yield shop


@pytest.fixture(params=["public", "management"])
def port(request: pytest.FixtureRequest, shop: Shop) -> int:
    """Each of the two ports: one protocol is behind both."""
    found: int = getattr(shop, request.param)
    return found


@pytest.fixture
def path(port: int, shop: Shop) -> bytes:
    """What anybody may read at `port`."""
    return b"/open" if port == shop.public else b"/livez"
