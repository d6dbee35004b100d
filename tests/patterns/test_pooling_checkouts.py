"""A connection is never held while somebody else is waited for, and whoever holds one for long is told of."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from captured_logs import captured_logs
from chassis.calls.http_client import HttpDependency, bearer
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import DatabaseSettings, DependencySettings
from chassis.pooling import ConnectionHeld, Database, check_nothing_held
from holdfast_local.ports import free_port
from notifications.mailer import Mailer
from notifications.settings import SmtpSettings, WebhookSettings
from notifications.webhook_sender import WebhookSender
from prometheus_client import REGISTRY
from pydantic import SecretStr
from sqlalchemy import text
from waiting import eventually

type Call = Callable[[], Awaitable[object]]


@pytest.fixture
async def open_pool(database_settings: DatabaseSettings) -> AsyncIterator[Callable[..., Database]]:
    opened: list[Database] = []

    def open_one(pool: str, **changes: object) -> Database:
        opened.append(Database(database_settings.model_copy(update=changes), pool=pool, application_name="test"))
        return opened[-1]

    yield open_one
    for database in opened:
        await database.close()


def counted(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"db_client_connection_{metric}", labels) or 0


async def over_http() -> None:
    settings = DependencySettings(base_url=f"http://127.0.0.1:{free_port()}")
    dependency = HttpDependency(
        "payments", settings, authorization=bearer(SecretStr("key")), breakers=BreakerRegistry()
    )
    try:
        await dependency.request("GET", "/", operation="look")
    finally:
        await dependency.close()


async def by_mail() -> None:
    mailer = Mailer(SmtpSettings(host="127.0.0.1", port=free_port()))
    await mailer.send(message_id="1", recipient="ada@example.com", subject="", text="")


async def to_a_customer() -> None:
    sender = WebhookSender(WebhookSettings())
    try:
        await sender.send("https://127.0.0.1/", b"", webhook_id="1", secret="whsec_" + "A" * 32, old_secrets=())
    finally:
        await sender.close()


@pytest.mark.parametrize("call", [over_http, by_mail, to_a_customer])
@pytest.mark.parametrize("enter", ["transaction", "read"])
async def test_no_call_is_made_while_a_connection_is_held(database: Database, enter: str, call: Call) -> None:
    async with getattr(database, enter)():
        with pytest.raises(ConnectionHeld, match=r"test_pooling_checkouts\.py:\d+ in test_no_call_is_made"):
            await call()
    try:
        await call()  # outside it is made; whether anybody answers is another matter
    except ConnectionHeld:
        pytest.fail("it was refused though nothing was held")
    except Exception:  # noqa: BLE001  nobody listens
        pass


async def test_a_task_started_inside_the_block_holds_what_its_parent_does_and_no_longer(database: Database) -> None:
    left = asyncio.Event()

    async def call_after_the_block() -> None:
        await left.wait()
        check_nothing_held("payments")

    async with database.transaction():
        with pytest.raises(ExceptionGroup) as refused:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(over_http())
        assert refused.group_contains(ConnectionHeld)
        outliving = asyncio.create_task(call_after_the_block())
    left.set()
    await outliving


async def test_another_task_is_not_blamed(database: Database) -> None:
    inside = asyncio.Event()
    release = asyncio.Event()

    async def hold() -> None:
        async with database.read():
            inside.set()
            await release.wait()

    holding = asyncio.create_task(hold())
    await inside.wait()
    check_nothing_held("payments")
    release.set()
    await holding


async def test_of_two_connections_that_are_held_the_outer_one_counts_until_its_own_end(
    open_pool: Callable[..., Database],
) -> None:
    outer, inner = open_pool("outer"), open_pool("inner")
    async with outer.read():
        async with inner.read():
            with pytest.raises(ConnectionHeld, match="a connection of inner"):
                check_nothing_held("payments")
        with pytest.raises(ConnectionHeld, match="a connection of outer"):
            check_nothing_held("payments")
    check_nothing_held("payments")


async def test_a_block_that_fails_holds_nothing_afterwards(database: Database) -> None:
    with pytest.raises(LookupError):
        async with database.transaction():
            raise LookupError
    check_nothing_held("payments")


async def test_in_production_each_place_is_told_once_and_every_call_counted(open_pool: Callable[..., Database]) -> None:
    database = open_pool("lenient", held_calls="warn")

    async def careless() -> None:
        async with database.read():
            check_nothing_held("payments")

    with captured_logs() as logs:
        for _ in range(3):
            await careless()
        async with database.read():
            check_nothing_held("mail server")
    told, other = logs.of("connection_held_across_call")
    assert (told["level"], told["pool"], told["dependency"]) == ("warning", "lenient", "payments")
    assert "in test_in_production_each_place_is_told_once_and_every_call_counted.<locals>.careless" in told["taken_by"]
    assert other["dependency"] == "mail server"
    assert counted("held_calls_total", pool="lenient", dependency="payments") == 3


async def test_a_connection_held_for_long_is_told_once_with_the_place_that_took_it_and_what_it_waits_for(
    open_pool: Callable[..., Database],
) -> None:
    database = open_pool("leaking", overdue_after=0.05)

    async def forgotten(release: asyncio.Event) -> None:
        await release.wait()

    async def leak(release: asyncio.Event) -> None:
        async with database.read():
            await forgotten(release)

    async def is_told() -> bool:
        return counted("overdue_total", pool="leaking") > 0

    release = asyncio.Event()
    with captured_logs() as logs:
        leaking = asyncio.create_task(leak(release))
        await eventually(is_told)
        async with database.read() as session:  # long enough for the first to be looked at again
            await session.execute(text("SELECT pg_sleep(0.15)"))
        release.set()
        await leaking
    first, second = logs.of("connection_overdue")
    assert first["pool"] == "leaking"
    assert first["seconds"] >= 0.05
    assert "test_pooling_checkouts.py" in first["taken_by"]
    assert first["taken_by"].endswith(".leak")
    assert [line.rpartition(".")[2] for line in first["waits_at"][:2]] == ["leak", "forgotten"]
    assert second["taken_by"].endswith("what_it_waits_for")


async def test_a_connection_given_back_in_time_is_not_told(open_pool: Callable[..., Database]) -> None:
    database = open_pool("prompt", overdue_after=0.1)

    async def is_told() -> bool:
        return counted("overdue_total", pool="prompt") > 0

    with captured_logs() as logs:
        async with database.read():
            pass
        async with database.read():  # a timer is running since before
            await eventually(is_told)
    assert len(logs.of("connection_overdue")) == 1


@asynccontextmanager
async def all_taken(database: Database) -> AsyncIterator[None]:
    async with database.read():
        yield


async def test_a_pool_tells_who_waits_and_how_long_each_step_took(open_pool: Callable[..., Database]) -> None:
    database = open_pool("told", pool_size=1, max_overflow=0, pool_timeout=2)

    async def is_waiting() -> bool:
        return counted("pending_requests", pool="told") == 1

    async with all_taken(database):
        waiting = asyncio.create_task(database.ping())
        await eventually(is_waiting)
    await waiting
    assert counted("pending_requests", pool="told") == 0
    assert counted("max", pool="told") == counted("idle_max", pool="told") == 1
    assert counted("create_time_seconds_count", pool="told") == 1
    assert counted("wait_time_seconds_count", pool="told") == 2
    assert counted("use_time_seconds_count", pool="told") == 2
    assert counted("use_time_seconds_sum", pool="told") > 0


async def test_statements_are_measured_by_their_first_word(database: Database) -> None:
    def measured(operation: str, error_type: str = "") -> float:
        labels = {"operation": operation, "error_type": error_type}
        return REGISTRY.get_sample_value("db_client_operation_duration_seconds_count", labels) or 0

    before = [measured("SELECT"), measured("WITH"), measured("_OTHER"), measured("SELECT", "22012")]
    async with database.read() as session:
        await session.execute(text("\n  select 1"))
        await session.execute(text("WITH a AS (SELECT 1) SELECT * FROM a"))
        await session.execute(text("SHOW timezone"))
        with pytest.raises(Exception, match="division by zero"):
            await session.execute(text("SELECT 1/0"))
    after = [measured("SELECT"), measured("WITH"), measured("_OTHER"), measured("SELECT", "22012")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1, 1]


async def test_an_http_pool_tells_of_its_connections() -> None:
    def told(metric: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"http_client_{metric}", {"dependency": "measured", **labels})

    arrived, release = asyncio.Event(), asyncio.Event()

    async def answer(_request: web.BaseRequest) -> web.Response:
        arrived.set()
        await release.wait()
        return web.json_response({})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
    settings = DependencySettings(base_url=f"http://127.0.0.1:{port}", max_connections=17)
    dependency = HttpDependency(
        "measured", settings, authorization=bearer(SecretStr("key")), breakers=BreakerRegistry()
    )
    call = asyncio.create_task(dependency.request("GET", "/", operation="look"))
    await arrived.wait()
    assert (told("open_connections", state="active"), told("open_connections", state="idle")) == (1, 0)
    release.set()
    await call
    assert (told("open_connections", state="active"), told("open_connections", state="idle")) == (0, 1)
    assert told("connection_max") == 17
    assert told("connection_wait_time_seconds_count") == 1
    await dependency.close()
    await runner.cleanup()
