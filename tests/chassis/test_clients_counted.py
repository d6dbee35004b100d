"""An API compares the clients that have keys with the number of clients that its limits are meant for."""

from typing import ClassVar

import pytest
from api_keys import CALLERS, PEPPERS
from captured_logs import captured_logs
from chassis.app.api.resources import open_api_resources
from chassis.circuit_breaker import BreakerRegistry
from chassis.config import Live
from chassis.config.settings import Causes, DatabaseSettings, RateLimitSettings, RedisSettings, ServiceSettings


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "shop"
    causes: ClassVar[tuple[Causes, ...]] = (Causes("supplier", calls=1, units=1),)


@pytest.mark.parametrize(("clients", "warnings"), [(len(CALLERS), 0), (len(CALLERS) - 1, 1)])
async def test_an_api_warns_if_more_clients_have_keys_than_its_limits_fit(
    database_settings: DatabaseSettings, redis_settings: RedisSettings, clients: int, warnings: int
) -> None:
    settings = Settings(
        database=database_settings,
        redis=redis_settings,
        auth=PEPPERS,
        rate_limit=RateLimitSettings(clients=clients),
    )
    with captured_logs() as logs:
        async with open_api_resources(Live(settings), BreakerRegistry()):
            pass
    found = logs.of("more_clients_than_limits_fit")
    assert len(found) == warnings
    assert all((line["clients"], line["fit"]) == (len(CALLERS), clients) for line in found)
