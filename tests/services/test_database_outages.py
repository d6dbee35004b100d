"""What PostgreSQL cannot do now is answered 503, to be repeated, and the next request after the outage is served.

The outages are real: the server itself refuses, with its own code.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from backends import FreshDatabase, RealServer
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from harness import AUTH, UNLIMITED, own_service, running
from httpx import AsyncClient, Response
from orders.api import create_app
from orders.settings import OrdersSettings
from test_orders import keyed, order

DISK_FULL = """
CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE 'could not extend file "base/1/2": No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER disk_full BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION disk_full();
"""
DISK_FREE = "DROP FUNCTION disk_full CASCADE"
END_SESSIONS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = $1 AND backend_type = 'client backend'"
)
"""So that each connects again, and meets what is set for new sessions."""

OUTAGES = {
    "disk full, orders": (DISK_FULL.format(table="orders"), DISK_FREE),
    "disk full, jobs": (DISK_FULL.format(table="job"), DISK_FREE),
    "disk full, keys": (DISK_FULL.format(table="idempotency_record"), DISK_FREE),
    "read-only": (
        'ALTER DATABASE "{name}" SET default_transaction_read_only = on',
        'ALTER DATABASE "{name}" RESET default_transaction_read_only',
    ),
    "no slot": ('ALTER DATABASE "{name}" CONNECTION LIMIT 0', 'ALTER DATABASE "{name}" CONNECTION LIMIT -1'),
    "no connections taken": (
        'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false',
        'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true',
    ),
    "role refused": (
        'REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC, test_app',
        'GRANT CONNECT ON DATABASE "{name}" TO PUBLIC, test_app',
    ),
}
"""What begins an outage, and what ends it."""


@pytest.fixture
async def settings(empty_database: FreshDatabase) -> DatabaseSettings:
    return await empty_database("orders")


@pytest.fixture
async def api(settings: DatabaseSettings, patient_redis: RedisSettings) -> AsyncIterator[AsyncClient]:
    service = OrdersSettings(
        database=settings,
        redis=patient_redis,
        auth=AUTH,
        rate_limit=UNLIMITED,
        payments=own_service("http://127.0.0.1:9"),
    )
    async with running(create_app(Live(service))) as client_of, client_of() as client:
        yield client


@pytest.fixture
async def outage(postgres: RealServer, settings: DatabaseSettings):
    """A context manager for the time between two statements of the server's administrator."""

    async def execute(statement: str) -> None:
        named = statement.replace("{name}", settings.name)
        # A trigger is made in the database, what is set for the database from beside it.
        connection = await asyncpg.connect(postgres.dsn, database="postgres" if named != statement else settings.name)
        try:
            await connection.execute(named)
            if named != statement:
                await connection.execute(END_SESSIONS, settings.name)
        finally:
            await connection.close()

    @asynccontextmanager
    async def lasting(begin: str, end: str) -> AsyncIterator[None]:
        await execute(begin)
        try:
            yield
        finally:
            await execute(end)

    return lasting


def is_an_outage(response: Response) -> bool:
    error = response.json()["error"]
    return (response.status_code, error["code"], error["retryable"], "Retry-After" in response.headers) == (
        503,
        "DEPENDENCY_UNAVAILABLE",
        True,
        True,
    )


@pytest.mark.parametrize("kind", OUTAGES)
async def test_an_order_in_an_outage_is_answered_503_and_afterwards_placed_with_the_same_key(
    api: AsyncClient, outage: Callable, kind: str
) -> None:
    placed = await api.post("/v1/orders", json=order(), headers=keyed())
    assert placed.status_code == 201
    key = keyed()
    async with outage(*OUTAGES[kind]):
        for _ in range(3):
            refused = await api.post("/v1/orders", json=order(), headers=key)
            assert is_an_outage(refused), refused.text
    assert (await api.post("/v1/orders", json=order(), headers=key)).status_code == 201
    assert (await api.get(f"/v1/orders/{placed.json()['id']}")).status_code == 200


async def test_a_cancellation_meets_a_full_disk_as_an_order_does(api: AsyncClient, outage: Callable) -> None:
    placed = (await api.post("/v1/orders", json=order(), headers=keyed())).json()
    async with outage(DISK_FULL.format(table="job"), DISK_FREE):
        assert is_an_outage(await api.post(f"/v1/orders/{placed['id']}/cancel"))
    assert (await api.post(f"/v1/orders/{placed['id']}/cancel")).status_code == 202
