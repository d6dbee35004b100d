"""Every secret that may be replaced is replaced under a running process with requests in flight, and none fails.

Real processes, real PostgreSQL with SCRAM: each test walks the steps that docs/patterns/config.md tells an operator.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import orders
import pytest
from api_keys import PEPPER, keep_keys
from backends import RealServer
from chassis import webhooks
from chassis.auth.api_keys import prefix_of
from chassis.auth.service_tokens import TokenSource
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.migrations import upgrade
from holdfast_local.databases import create_database, scram_verifier
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from redis.asyncio import Redis
from service_process import CALLER, KEY, Ended, OrdersInstallation
from waiting import eventually

OLD, NEW = "old-password", "new-password"
NEW_PEPPER = "n" * 64
IN_FLIGHT = 8
KEY_REFRESH = 0.1
MIGRATIONS = Path(orders.__path__[0]) / "migrations"

# Some seconds on a machine of its own; each step waits for processes that share this one with everything else.
type Request = Callable[[httpx.AsyncClient, int], Awaitable[httpx.Response]]


class Load:
    """Requests that go on all the time, `IN_FLIGHT` at once, and what was answered."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self._answered = [0] * IN_FLIGHT

    @asynccontextmanager
    async def running(self, url: str, ask: Request) -> AsyncIterator[None]:
        stopping = asyncio.Event()

        async def go_on(client: httpx.AsyncClient, worker: int) -> None:
            number = worker
            while not stopping.is_set():
                self.statuses.append((await ask(client, number)).status_code)
                self._answered[worker] += 1
                number += IN_FLIGHT

        async with httpx.AsyncClient(base_url=url, timeout=20) as client, asyncio.TaskGroup() as tasks:
            for worker in range(IN_FLIGHT):
                tasks.create_task(go_on(client, worker))
            try:
                yield
                await self.more()
            finally:
                stopping.set()

    async def more(self) -> None:
        """Wait until each worker has five further answers, so that no request is under way that began before."""
        wanted = [answered + 5 for answered in self._answered]
        await eventually(
            lambda: _answer(all(now >= then for now, then in zip(self._answered, wanted, strict=True))), seconds=30
        )


async def _answer(value: bool) -> bool:  # noqa: FBT001
    return value


async def reloads(installation: OrdersInstallation) -> float:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{installation.management_url}/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "config_reload_total" and sample.labels["result"] == "applied"
    )


async def change(installation: OrdersInstallation, **files: str | None) -> None:
    """Write secret files, None removes one, and wait until the process has taken them over."""
    before = await reloads(installation)
    for name, text in files.items():
        if text is None:
            (installation.folder / "secrets" / name).unlink()
        else:
            installation.secret(name, text)

    async def is_applied() -> bool:
        return await reloads(installation) > before

    await eventually(is_applied)


def quick(installation: OrdersInstallation) -> OrdersInstallation:
    installation.set("reload__interval", "0.1")
    installation.set("auth__key_refresh", str(KEY_REFRESH))
    installation.set("rate_limit__rate_per_second", "10000")
    installation.set("rate_limit__burst", "1000000")
    return installation


def no_failure(ended: Ended, load: Load) -> None:
    assert set(load.statuses) == {200}
    assert len(load.statuses) > 100
    assert {line["level"] for line in ended.lines} <= {"info", "warning"}


# The database's password


@pytest.fixture
async def database(postgres: RealServer) -> AsyncIterator[DatabaseSettings]:
    """A database of orders whose role of run time is nobody else's; the server wants SCRAM for it."""
    owner, runtime = ("rotating_owner", "of-the-owner"), ("rotating_app", OLD)
    await create_database(postgres.dsn, name="rotating", owner=owner, runtime=runtime)
    server = urlsplit(postgres.dsn)
    settings = DatabaseSettings(
        host=server.hostname,
        port=server.port,
        name="rotating",
        user=runtime[0],
        password=SecretStr(OLD),
        migration_user=owner[0],
        migration_password=SecretStr(owner[1]),
    )
    await upgrade(settings, MIGRATIONS)
    connection = await asyncpg.connect(postgres.dsn, database="rotating")
    await keep_keys(connection, "orders")
    await connection.close()
    yield settings
    await execute(postgres, "DROP DATABASE rotating WITH (FORCE)")


async def execute(postgres: RealServer, statement: str) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def ask_server[T](postgres: RealServer, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(postgres.dsn)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def scram_is_asked_for(postgres: RealServer, database: DatabaseSettings) -> None:
    """The server keeps no password that anything but SCRAM could check, and lets nobody in without."""
    kept = await ask_server(postgres, f"SELECT rolpassword FROM pg_authid WHERE rolname = '{database.user}'")
    assert kept[0]["rolpassword"].startswith("SCRAM-SHA-256$")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=database.host, port=database.port, database=database.name, user=database.user, password="another"
        )


async def new_sessions(postgres: RealServer, number: int = 20) -> None:
    """Wait until the processes have opened so many further connections."""
    query = "SELECT sessions FROM pg_stat_database WHERE datname = 'rotating'"
    before = (await ask_server(postgres, query))[0]["sessions"]

    async def are_there() -> bool:
        return bool((await ask_server(postgres, query))[0]["sessions"] >= before + number)

    await eventually(are_there, seconds=30)


async def new_backend(postgres: RealServer, which: str) -> None:
    """End a connection beside the pool, and wait until its process has opened another one."""
    mine = f"datname = 'rotating' AND {which}"
    before = await eventually(lambda: ask_server(postgres, f"SELECT pid FROM pg_stat_activity WHERE {mine}"))
    await execute(postgres, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")
    gone = ", ".join(str(row["pid"]) for row in before)
    query = f"SELECT pid FROM pg_stat_activity WHERE {mine} AND pid NOT IN ({gone})"
    await eventually(lambda: ask_server(postgres, query), seconds=30)


async def can_log_in(settings: DatabaseSettings, password: str) -> bool:
    try:
        connection = await asyncpg.connect(
            host=settings.host, port=settings.port, user=settings.user, database=settings.name, password=password
        )
    except asyncpg.InvalidPasswordError:
        return False
    await connection.close()
    return True


def open_connections_all_the_time(api: OrdersInstallation) -> None:
    """Two are kept, and each further request opens one; there are enough of them, so that none has to wait."""
    for name, value in {"pool_size": "2", "max_overflow": "8", "pool_timeout": "2"}.items():
        api.set(f"database__{name}", value)
    api.set("cache__bypass_concurrency", "1")


async def list_orders(client: httpx.AsyncClient, _number: int) -> httpx.Response:
    return await client.get("/v1/orders", headers=CALLER)


async def test_the_database_password_is_replaced_without_a_failed_request(
    tmp_path: Path, postgres: RealServer, database: DatabaseSettings, redis_settings: RedisSettings, redis: Redis
) -> None:
    await scram_is_asked_for(postgres, database)
    api = quick(OrdersInstallation.create(tmp_path / "api", database, redis_settings))
    worker = quick(OrdersInstallation.create(tmp_path / "worker", database, redis_settings))
    open_connections_all_the_time(api)
    load = Load()
    async with api.running("api") as process, worker.running("worker") as working:
        async with load.running(api.url, list_orders):
            await new_sessions(postgres)
            for one in (api, worker):
                await change(one, database__next_password=NEW)
            await execute(postgres, f"ALTER ROLE rotating_app PASSWORD '{scram_verifier(NEW)}'")
            await new_sessions(postgres)
            for one in (api, worker):
                await change(one, database__password=NEW, database__next_password=None)
            await new_sessions(postgres)
            await new_backend(postgres, "application_name = 'orders-relay'")
            await new_backend(postgres, "application_name = 'orders-worker' AND query ~* 'listen|pg_notify'")
        assert not await can_log_in(database, OLD)
        assert await can_log_in(database, NEW)
        for running in (process, working):
            running.terminate()
        ended, _ = await process.end(), await working.end()
    assert set(load.statuses) == {200}
    assert len(load.statuses) > 100
    assert OLD not in ended.stdout
    assert NEW not in ended.stdout


async def test_a_password_replaced_without_the_step_in_between_fails_requests(
    tmp_path: Path, postgres: RealServer, database: DatabaseSettings, redis_settings: RedisSettings, redis: Redis
) -> None:
    """The version that goes wrong: the server learns the new password first, and until the file follows there is none
    that it takes. It is also what shows that the test above can fail.
    """
    api = quick(OrdersInstallation.create(tmp_path, database, redis_settings))
    open_connections_all_the_time(api)
    load = Load()
    async with api.running("api") as process:
        async with load.running(api.url, list_orders):
            await new_sessions(postgres)
            await execute(postgres, f"ALTER ROLE rotating_app PASSWORD '{scram_verifier(NEW)}'")
            await eventually(lambda: _answer(503 in load.statuses))
            await change(api, database__password=NEW)
            await new_sessions(postgres)
        process.terminate()
        await process.end()
    assert set(load.statuses) == {200, 503}
    assert set(load.statuses[-IN_FLIGHT:]) == {200}


# The pepper, and a client's key


async def test_the_pepper_and_a_key_are_replaced_without_a_failed_request(
    tmp_path: Path, database: DatabaseSettings, redis_settings: RedisSettings, redis: Redis
) -> None:
    api = quick(OrdersInstallation.create(tmp_path, database, redis_settings))
    operator = as_owner(OrdersInstallation.create(tmp_path / "operator", database, redis_settings), database)
    key_in_use = KEY

    async def ask(client: httpx.AsyncClient, _number: int) -> httpx.Response:
        return await client.get("/v1/orders", headers={"Authorization": f"Bearer {key_in_use}"})

    async def register() -> str:
        (operator.folder / "clients").mkdir()
        (operator.folder / "clients" / "acme").write_text(KEY)
        ended = await operator.run("api-keys", "register", "clients", "--scope", "orders:read")
        assert ended.code == 0, ended.stderr
        return ended.stderr

    load = Load()
    async with api.running("api") as process:
        async with load.running(api.url, ask):
            await load.more()
            await change(api, auth__peppers=json.dumps([NEW_PEPPER, PEPPER]))
            operator.secret("auth__peppers", json.dumps([NEW_PEPPER, PEPPER]))
            assert json.loads(await register())["outcome"] == "brought up to date"
            await looks(load)
            await change(api, auth__peppers=json.dumps([NEW_PEPPER]))
            operator.secret("auth__peppers", json.dumps([NEW_PEPPER]))
            await load.more()
            made = await operator.run("api-keys", "create", "acme", "--scope", "orders:read")
            await looks(load)
            key_in_use = made.stdout.strip()
            await load.more()
            assert (await operator.run("api-keys", "revoke", prefix_of(KEY))).code == 0
            await looks(load)
        async with httpx.AsyncClient(base_url=api.url) as client:
            assert (await client.get("/v1/orders", headers=CALLER)).status_code == 401
        process.terminate()
        ended = await process.end()
    no_failure(ended, load)


def as_owner(installation: OrdersInstallation, database: DatabaseSettings) -> OrdersInstallation:
    """As whoever migrates it has it."""
    assert database.migration_user
    assert database.migration_password
    installation.set("database__migration_user", database.migration_user)
    installation.secret("database__migration_password", database.migration_password.get_secret_value())
    return installation


async def looks(load: Load) -> None:
    """Until the process has read its keys again, and some requests more."""
    await asyncio.sleep(3 * KEY_REFRESH)
    await load.more()


# What two services sign with


async def test_the_secret_between_two_services_is_replaced_without_a_failed_call(
    tmp_path: Path,
    fresh_database: Callable[[str], Awaitable[DatabaseSettings]],
    redis_settings: RedisSettings,
    redis: Redis,
) -> None:
    database = await fresh_database("payments")
    payments = quick(OrdersInstallation.bare(tmp_path, database, redis_settings, command="payments"))
    payments.secret("provider__api_key", "not asked for")
    payments.set("provider__base_url", "http://127.0.0.1:9")
    payments.set("auth__service_scopes", '{"orders": ["payments:read"]}')
    payments.set("rate_limit__clients", "0")
    payments.set("rate_limit__edges", '{"orders": {"payments": 10000}}')
    old, new = SecretStr("o" * 64), SecretStr("n" * 64)
    payments.secret("auth__service_secrets", json.dumps({"orders": ["o" * 64]}))
    secret = old
    tokens = TokenSource(issuer="orders", audience="payments", secret=lambda: secret)

    async def ask(client: httpx.AsyncClient, _number: int) -> httpx.Response:
        answer = await client.get(f"/v1/payments/{uuid4()}", headers={"Authorization": tokens()})
        return httpx.Response(200) if answer.status_code == 404 else answer  # there is no such payment: it was let in

    load = Load()
    async with payments.running("api") as process:
        async with load.running(payments.url, ask):
            await load.more()
            await change(payments, auth__service_secrets=json.dumps({"orders": ["n" * 64, "o" * 64]}))
            await load.more()
            secret = new
            await load.more()
            await change(payments, auth__service_secrets=json.dumps({"orders": ["n" * 64]}))
        secret = old
        async with httpx.AsyncClient(base_url=payments.url) as client:
            assert (await ask(client, 0)).status_code == 401
        process.terminate()
        ended = await process.end()
    no_failure(ended, load)


# The operators' token


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_the_management_token_is_replaced_and_the_former_one_refused(
    tmp_path: Path, database: DatabaseSettings, redis_settings: RedisSettings, redis: Redis, role: str
) -> None:
    installation = quick(OrdersInstallation.create(tmp_path, database, redis_settings))
    former, current = "f" * 64, "c" * 64
    installation.secret("management__token", former)

    async def raise_level(client: httpx.AsyncClient, token: str) -> int:
        body = {"logger": "chassis", "level": "DEBUG", "seconds": 1}
        headers = {"Authorization": f"Bearer {token}"}
        return (await client.put("/log-levels", json=body, headers=headers)).status_code

    async with (
        installation.running(role) as process,
        httpx.AsyncClient(base_url=installation.management_url) as client,
    ):
        assert (await raise_level(client, former), await raise_level(client, current)) == (200, 401)
        await change(installation, management__token=current)
        assert (await raise_level(client, former), await raise_level(client, current)) == (401, 200)
        process.terminate()
        ended = await process.end()
    assert len(ended.of("management_changed")) == len(ended.of("management_refused")) == 2


# A provider's webhook secret


@pytest.fixture
async def ingest(
    tmp_path: Path, fresh_database: Callable[[str], Awaitable[DatabaseSettings]], redis_settings: RedisSettings
) -> OrdersInstallation:
    database = await fresh_database("webhook_ingest")
    return quick(OrdersInstallation.bare(tmp_path, database, redis_settings, command="webhook-ingest"))


async def test_a_webhook_secret_is_replaced_without_a_refused_webhook(ingest: OrdersInstallation, redis: Redis) -> None:
    old, new = "whsec_" + "b2xk" * 10, "whsec_" + "bmV3" * 10
    ingest.secret("webhook_secrets__payment_provider", json.dumps([old]))
    secret = old

    async def send(client: httpx.AsyncClient, number: int) -> httpx.Response:
        body = json.dumps({"type": "of no interest", "number": number}).encode()
        headers = webhooks.sign(secret, f"evt_{number}", int(time.time()), body)
        return await client.post("/v1/webhooks/payment-provider", content=body, headers=headers)

    load = Load()
    async with ingest.running("api") as process:
        async with load.running(ingest.url, send):
            await load.more()
            await change(ingest, webhook_secrets__payment_provider=json.dumps([new, old]))
            await load.more()
            secret = new
            await load.more()
            await change(ingest, webhook_secrets__payment_provider=json.dumps([new]))
        secret = old
        async with httpx.AsyncClient(base_url=ingest.url) as client:
            assert (await send(client, 0)).status_code == 401
        process.terminate()
        ended = await process.end()
    no_failure(ended, load)
