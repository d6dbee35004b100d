"""Real processes at full load: what they open is what the budget says, and what they lose is what was in flight."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from backends import FreshDatabase, RealServer
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.pooling.budget import process_connections
from service_process import CALLER, OrdersInstallation, Running
from waiting import eventually

POOL, CALLERS = 10, 50
POOL_TIMEOUT = 2.0
PATIENT = {
    # Whoever waits for a lock in these tests waits until the test says so.
    "database__lock_timeout": 30,
    "database__statement_timeout": 40,
    "http__default_deadline": 60,
    "cache__lock_ttl": 60,
    "rate_limit__burst": 10_000,
}


@dataclass(frozen=True)
class Answer:
    status: int
    code: str
    retry_after: str | None
    seconds: float


@dataclass(frozen=True)
class Platform:
    """The API of orders under test, and two connections of a superuser: inside a transaction one sees no news."""

    installation: OrdersInstallation
    process: Running
    client: aiohttp.ClientSession
    superuser: asyncpg.Connection
    locking: asyncpg.Connection

    async def ask(self) -> Answer:
        """A request that has to read the orders."""
        started = time.monotonic()
        async with self.client.get(f"{self.installation.url}/v1/orders", headers=CALLER) as answer:
            body = await answer.json()
            code = body["error"]["code"] if answer.status >= 400 else ""
            return Answer(answer.status, code, answer.headers.get("Retry-After"), time.monotonic() - started)

    @asynccontextmanager
    async def locked_orders(self) -> AsyncIterator[None]:
        """Every statement about orders waits until the block ends."""
        async with self.locking.transaction():
            await self.locking.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            yield

    async def backends(self, *application_names: str, waiting: bool = False) -> int:
        return await self.superuser.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = ANY($1) AND (wait_event_type = 'Lock' OR NOT $2)",
            application_names,
            waiting,
        )

    async def kill(self, application_name: str) -> int:
        """End every backend of that name, and wait until they have gone; returns how many."""
        return await self.superuser.fetchval(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = $1",
            application_name,
        )

    async def is_ready(self, installation: OrdersInstallation) -> bool:
        async with self.client.get(f"{installation.management_url}/readyz") as answer:
            return answer.status == 200

    async def until_waiting(self, application_name: str, count: int) -> None:
        async def are_waiting() -> bool:
            return await self.backends(application_name, waiting=True) == count

        await eventually(are_waiting)


@pytest.fixture(scope="module")
async def settings(fresh_database: FreshDatabase) -> DatabaseSettings:
    return await fresh_database("orders")


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, settings: DatabaseSettings, redis_settings: RedisSettings
) -> OrdersInstallation:
    return installed(tmp_path_factory.mktemp("api"), settings, redis_settings)


def installed(folder: Path, settings: DatabaseSettings, redis_settings: RedisSettings) -> OrdersInstallation:
    found = OrdersInstallation.create(folder, settings, redis_settings)
    for name, value in (PATIENT | {"database__pool_timeout": POOL_TIMEOUT}).items():
        found.set(name, str(value))
    return found


@pytest.fixture(scope="module")
async def platform(
    installation: OrdersInstallation, settings: DatabaseSettings, postgres: RealServer
) -> AsyncIterator[Platform]:
    superuser = await asyncpg.connect(postgres.dsn, database=settings.name)
    locking = await asyncpg.connect(postgres.dsn, database=settings.name)
    async with (
        installation.running("api") as process,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
    ):
        yield Platform(installation, process, client, superuser, locking)
    await locking.close()
    await superuser.close()


async def test_an_api_at_full_load_has_the_connections_that_the_budget_says_and_answers_more_with_503(
    platform: Platform,
) -> None:
    async with platform.locked_orders():
        held = [asyncio.create_task(platform.ask()) for _ in range(POOL)]
        await platform.until_waiting("orders-api", POOL)
        assert await platform.backends("orders-api") == process_connections("api", POOL)
        assert await platform.is_ready(platform.installation)  # a busy pool is no reason to be taken out
        refused = await asyncio.gather(*(platform.ask() for _ in range(5)))
        assert await platform.backends("orders-api") == process_connections("api", POOL)
    assert [answer.status for answer in await asyncio.gather(*held)] == [200] * POOL
    for answer in refused:
        assert (answer.status, answer.code) == (503, "OVERLOADED")
        assert answer.retry_after
        assert answer.seconds >= POOL_TIMEOUT


async def test_when_all_backends_are_ended_only_the_statements_under_way_fail_and_as_503(platform: Platform) -> None:
    async with platform.locked_orders():
        callers = [asyncio.create_task(platform.ask()) for _ in range(CALLERS)]
        await platform.until_waiting("orders-api", POOL)
        assert await platform.kill("orders-api") >= POOL
    answers = await asyncio.gather(*callers)
    failed = [answer for answer in answers if answer.status != 200]
    assert [(answer.status, answer.code) for answer in failed] == [(503, "DEPENDENCY_UNAVAILABLE")] * POOL
    assert all(answer.retry_after for answer in failed)


async def test_backends_that_are_ended_again_and_again_under_load_fail_one_request_each_at_most(
    platform: Platform,
) -> None:
    ended = asyncio.Event()

    async def call_until_ended() -> list[Answer]:
        answers = []
        while not ended.is_set():
            answers.append(await platform.ask())
        return answers

    # Twice the pool, so that somebody always waits, and nobody for as long as the pool's time-out on a busy machine.
    callers = [asyncio.create_task(call_until_ended()) for _ in range(2 * POOL)]
    killed = 0
    for _ in range(5):
        killed += await platform.kill("orders-api")

        async def are_back() -> bool:
            return await platform.backends("orders-api") >= POOL

        await eventually(are_back)
    ended.set()
    answers = [answer for found in await asyncio.gather(*callers) for answer in found]
    failed = [answer for answer in answers if answer.status != 200]
    assert {(answer.status, answer.code) for answer in failed} <= {(503, "DEPENDENCY_UNAVAILABLE")}
    assert all(answer.retry_after for answer in failed)
    assert len(failed) <= killed
    assert len(answers) > 2 * len(callers)  # it was under load


async def test_backends_that_were_ended_while_they_idled_fail_nobody(platform: Platform) -> None:
    await asyncio.gather(*(platform.ask() for _ in range(POOL)))
    assert await platform.kill("orders-api") >= 5
    answers = await asyncio.gather(*(platform.ask() for _ in range(CALLERS)))
    assert [answer.status for answer in answers] == [200] * CALLERS


async def test_a_worker_at_full_load_has_the_connections_that_the_budget_says(
    platform: Platform, settings: DatabaseSettings, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    order = {
        "lines": [{"product_id": "rope", "quantity": 1}],
        "customer_email": "ada@example.com",
        "payment_method": "pm_card_ok",
    }
    url, headers = f"{platform.installation.url}/v1/orders", CALLER | {"Idempotency-Key": "one"}
    async with platform.client.post(url, json=order, headers=headers) as placed:
        assert placed.status == 201
    worker = installed(tmp_path, settings, redis_settings)
    # A job and two sweeps: all three wait for the table, and claims and heartbeats for them.
    sizes = {"database__pool_size": 2, "database__max_overflow": 1, "jobs__concurrency": 1, "sweeps__every": 0.05}
    for name, value in (sizes | {"cache__bypass_concurrency": 1}).items():
        worker.set(name, str(value))
    async with platform.locked_orders(), worker.running("worker"):
        await platform.until_waiting("orders-worker", 3)
        assert await platform.is_ready(worker)
        opened = await platform.backends("orders-worker", "orders-relay")
        assert opened == process_connections("worker", 3)
