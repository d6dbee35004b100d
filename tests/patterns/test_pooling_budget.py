"""All processes together open no more connections than the server has: one sum, compared with its own limit."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
from captured_logs import captured_logs
from chassis.app.api.resources import open_api_resources
from chassis.app.worker.resources import open_worker_resources
from chassis.circuit_breaker import BreakerRegistry
from chassis.config import Live
from chassis.config.settings import BudgetSettings, DatabaseSettings, ServiceSettings
from chassis.pooling import Database
from chassis.pooling.budget import Share, check_budget, pool_budget, service_budget
from holdfast_local.placement import passable_folder
from holdfast_local.ports import free_port
from holdfast_local.postgres import EmbeddedPostgres
from pydantic import SecretStr
from sqlalchemy import text


class Settings(ServiceSettings):
    service_name = "shop"


def live(database: DatabaseSettings, **told: int) -> Live[Settings]:
    return Live(Settings(database=database.model_copy(update={"budget": BudgetSettings(**told)})))


def test_the_sum_counts_every_process_every_connection_beside_its_pool_and_who_else_there_is() -> None:
    shares = {
        "orders": Share(pool=10, api_replicas=2, worker_replicas=3, generations=2),
        "payments": Share(pool=4, api_replicas=1, worker_replicas=0, generations=1),
    }
    budget = pool_budget(shares, others=100, reserve=10)
    # An API has two connections beside its pool, a worker three; each service one migration.
    assert budget.total == (2 * (2 * 12 + 3 * 13) + 1) + (1 * 6 + 1) + 100 + 10
    assert str(budget) == (
        "orders: 2 × (2 × 12 + 3 × 13) + 1 = 127; payments: 1 × (1 × 6 + 0 × 7) + 1 = 7; "
        "other services: 100; reserve: 10"
    )


def test_a_service_adds_up_what_its_settings_say(database_settings: DatabaseSettings) -> None:
    told = BudgetSettings(api_replicas=3, worker_replicas=2, generations=2, others=7, reserve=5)
    settings = database_settings.model_copy(update={"pool_size": 8, "max_overflow": 2, "budget": told})
    assert service_budget("shop", settings).total == 2 * (3 * 12 + 2 * 13) + 1 + 7 + 5
    assert service_budget("shop", settings, least_reserve=20).total == 2 * (3 * 12 + 2 * 13) + 1 + 7 + 20


async def allowed_by(database: Database) -> int:
    async with database.read() as session:
        return int(await session.scalar(text("SHOW max_connections")) or 0)


async def test_more_than_the_server_allows_is_told_with_the_sum_and_stops_nobody(
    database_settings: DatabaseSettings, database: Database
) -> None:
    allowed = await allowed_by(database)
    with captured_logs() as logs:
        await check_budget(live(database_settings, others=allowed - 36), database)
        assert logs.of("connection_budget_exceeded") == []
        await check_budget(live(database_settings, others=allowed - 35), database)
    line = logs.one("connection_budget_exceeded")
    assert (line["level"], line["allowed"], line["needed"]) == ("warning", allowed, allowed + 1)
    assert line["budget"].startswith("shop: 1 × (1 × 12 + 1 × 13) + 1 = 26; other services: ")


@pytest.mark.parametrize("start", [partial(open_api_resources, breakers=BreakerRegistry()), open_worker_resources])
async def test_an_api_and_a_worker_compare_when_they_start(
    database_settings: DatabaseSettings, start: Callable[[Live[Settings]], AbstractAsyncContextManager[object]]
) -> None:
    with captured_logs() as logs:
        async with start(live(database_settings, others=10_000)):
            pass
    logs.one("connection_budget_exceeded")


async def test_what_postgres_keeps_for_superusers_is_in_reserve_whatever_the_settings_say(
    database_settings: DatabaseSettings, database: Database
) -> None:
    with captured_logs() as logs:
        await check_budget(live(database_settings, reserve=0, others=await allowed_by(database) - 26), database)
    assert logs.one("connection_budget_exceeded")["budget"].endswith("reserve: 3")


class WithConnectionsForItsOwn(EmbeddedPostgres):
    def command(self) -> list[str | Path]:
        return [*super().command(), "-c", "superuser_reserved_connections=4", "-c", "reserved_connections=11"]


async def test_what_postgres_keeps_for_roles_with_pg_use_reserved_connections_is_in_reserve_too() -> None:
    """A server of its own: that setting is read at its start."""
    with passable_folder(prefix="holdfast-test-") as folder:
        server = WithConnectionsForItsOwn(folder / "postgres", port=free_port(), password="of-a-test", durable=False)
        settings = DatabaseSettings(
            host=server.host, port=server.port, name="postgres", user="postgres", password=SecretStr("of-a-test")
        )
        try:
            async with server:
                database = Database(settings, pool="reserved", application_name="test")
                with captured_logs() as logs:
                    await check_budget(live(settings, others=10_000), database)
                await database.close()
        finally:
            server.remove()
    assert logs.one("connection_budget_exceeded")["budget"].endswith("reserve: 15")


async def test_it_is_compared_again_when_a_service_grows(
    database_settings: DatabaseSettings, database: Database
) -> None:
    settings = live(database_settings)
    with captured_logs() as logs:
        await check_budget(settings, database)
        assert logs.of("connection_budget_exceeded") == []
        settings.replace(live(database_settings, api_replicas=1000).current)
    assert logs.one("connection_budget_exceeded")["needed"] > 12_000


async def test_a_server_that_is_away_keeps_no_process_from_starting(database_settings: DatabaseSettings) -> None:
    away = Database(database_settings.model_copy(update={"port": free_port()}), pool="away", application_name="test")
    with captured_logs() as logs:
        await check_budget(live(database_settings), away)
    assert "pool away" in logs.one("connection_budget_unchecked")["reason"]
    await away.close()
