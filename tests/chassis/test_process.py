"""A process starts as a whole or not at all, says in one line why not, and finishes what it began when told to stop."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from backends import RealServer
from captured_logs import captured_logs
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings, ServiceSettings
from chassis.errors import HoldfastError
from chassis.process.running import identify
from chassis.process.server import ServeError, Server
from holdfast_local.ports import free_port
from loopback import has_ipv6_loopback
from redis.asyncio import Redis
from service_process import CALLER, OrdersInstallation
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from waiting import eventually

type FreshDatabase = Callable[[str], Awaitable[DatabaseSettings]]


@pytest.fixture
async def orders_database(fresh_database: FreshDatabase) -> DatabaseSettings:
    return await fresh_database("orders")


@pytest.fixture
def orders(
    tmp_path: Path,
    orders_database: DatabaseSettings,
    redis_settings: RedisSettings,
    redis: Redis,  # empty: nothing is answered from a cache
) -> OrdersInstallation:
    return OrdersInstallation.create(tmp_path, orders_database, redis_settings)


@asynccontextmanager
async def locked_catalogue(postgres: RealServer, settings: DatabaseSettings) -> AsyncIterator[asyncpg.Connection]:
    """Whoever reads the products waits until the block ends."""
    connection = await asyncpg.connect(postgres.dsn, database=settings.name)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE product IN ACCESS EXCLUSIVE MODE")
            yield connection
    finally:
        await connection.close()


async def test_a_process_believes_the_proxies_that_its_settings_name(orders: OrdersInstallation) -> None:
    orders.set("http__trusted_proxies", '["127.0.0.0/8"]')
    orders.set("rate_limit__unauthenticated__rate_per_second", "0.001")
    orders.set("rate_limit__unauthenticated__burst", "1")
    async with orders.running("api"), httpx.AsyncClient(base_url=orders.url) as client:
        strangers = ("198.51.100.1", "198.51.100.1", "198.51.100.2")
        answers = [await client.get("/v1/products", headers={"X-Forwarded-For": stranger}) for stranger in strangers]
    assert [answer.status_code for answer in answers] == [401, 429, 401]


async def test_sigterm_lets_the_request_under_way_finish_and_refuses_further_ones(
    orders: OrdersInstallation, orders_database: DatabaseSettings, postgres: RealServer
) -> None:
    orders.set("database__lock_timeout", "20")
    orders.set("database__statement_timeout", "25")
    orders.set("http__default_deadline", "30")
    orders.set("cache__lock_ttl", "30")
    async with orders.running("api") as process, httpx.AsyncClient(timeout=20) as client:
        async with locked_catalogue(postgres, orders_database) as lock:
            idle, writer = await asyncio.open_connection("127.0.0.1", orders.http_port)
            slow = asyncio.create_task(client.get(f"{orders.url}/v1/products", headers=CALLER))
            await eventually(lambda: lock.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            process.terminate()

            async def is_draining() -> bool:
                answer = await client.get(f"{orders.management_url}/readyz")
                return answer.status_code == 503 and answer.json()["problems"] == {"process": "shutting down"}

            async def refuses() -> bool:
                try:
                    async with httpx.AsyncClient() as other:
                        await other.get(f"{orders.url}/v1/products")
                except httpx.ConnectError:
                    return True
                except httpx.TransportError:  # it met the port in the moment of closing: not read, not answered
                    return False
                return False

            await eventually(is_draining)
            await eventually(refuses)
            assert await idle.read() == b""  # the drain has begun
            writer.close()
            assert (await client.get(f"{orders.management_url}/livez")).status_code == 200
            assert not slow.done()
        answer = await slow
        ended = await process.end()
    assert answer.status_code == 200
    assert answer.json()["items"]
    assert ended.code == 0
    assert ended.stderr == ""
    assert [line["event"] for line in ended.lines if line["event"].startswith("process_")] == [
        "process_started",
        "process_draining",
        "process_stopped",
    ]
    (finished,) = (line for line in ended.of("request_completed") if line["status"] == 200)
    assert finished["db_queries"] >= 1
    assert finished["db_ms"] > 0


async def test_a_request_that_outlasts_the_drain_is_sent_elsewhere_and_the_process_ends_with_1(
    orders: OrdersInstallation, orders_database: DatabaseSettings, postgres: RealServer
) -> None:
    orders.set("shutdown__drain_timeout", "1")
    orders.set("database__lock_timeout", "20")
    orders.set("database__statement_timeout", "25")
    orders.set("http__default_deadline", "30")
    orders.set("cache__lock_ttl", "30")
    async with orders.running("api") as process, httpx.AsyncClient(timeout=20) as client:
        async with locked_catalogue(postgres, orders_database) as lock:
            slow = asyncio.create_task(client.get(f"{orders.url}/v1/products", headers=CALLER))
            await eventually(lambda: lock.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            process.terminate()
            ended = await process.end()
        answer = await slow
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "SHUTTING_DOWN"
    assert answer.headers["Retry-After"] == "1"
    assert "exception" not in ended.stdout
    assert ended.code == 1
    (line,) = ended.of("process_failed")
    assert line["reason"] == "DrainTimedOut: 1 requests were cut off after 1 s"


async def test_a_request_that_is_cut_off_says_so_before_what_it_uses_is_closed() -> None:
    is_open, is_asked = True, asyncio.Event()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        nonlocal is_open
        yield
        is_open = False

    async def outlast(_request: Request) -> PlainTextResponse:
        is_asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)  # as long as a rollback takes
        return PlainTextResponse("in time" if is_open else "too late")

    port = free_port()
    app = Starlette(routes=[Route("/", outlast)], lifespan=lifespan)
    server = Server(app, host="127.0.0.1", port=port, drain_timeout=0.1)
    async with httpx.AsyncClient() as client:
        async with server.running():
            asking = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/"))
            await is_asked.wait()
        assert (await asking).text == "in time"
    assert server.cut_off == 1


async def test_while_routing_lags_every_answer_ends_its_connection(orders: OrdersInstallation) -> None:
    orders.set("shutdown__readiness_delay", "2")
    async with orders.running("api") as process, httpx.AsyncClient(timeout=20) as client:
        before = await client.get(f"{orders.url}/v1/products")
        assert "connection" not in before.headers
        process.terminate()

        async def is_sent_away() -> bool:
            answer = await client.get(f"{orders.url}/v1/products")
            return answer.headers.get("connection") == "close"

        await eventually(is_sent_away)
        assert (await client.get(f"{orders.management_url}/readyz")).status_code == 503
        ended = await process.end()
    assert ended.code == 0


def test_time_running_out_ends_the_process_with_1_and_says_what_was_left(tmp_path: Path) -> None:
    """A blocked event loop is the worst that can happen: no timer of its own would ever fire."""
    script = tmp_path / "stuck.py"
    script.write_text(_STUCK)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    line = json.loads(ended.stdout.splitlines()[-1])
    assert (line["event"], line["level"]) == ("process_killed", "critical")
    assert line["reason"] == "not done 0.2 s after it began to stop"
    assert line["requests"] == 3


_STUCK = """
import asyncio, os, signal, time
from chassis.logging import configure_logging
from chassis.process.ending import Ending
from chassis.config.settings import LogSettings

async def main(ending):
    stopping = ending.stop_signal(seconds=0.2, left=lambda: {"requests": 3})
    os.kill(os.getpid(), signal.SIGTERM)
    await stopping.wait()
    time.sleep(15)

configure_logging(LogSettings(format="json"), service="stuck")
asyncio.run(main(Ending()))
"""


@pytest.mark.parametrize("command", ["api", "worker"])
async def test_a_second_signal_ends_a_process_at_once_and_says_what_was_left(
    command: str, orders: OrdersInstallation, orders_database: DatabaseSettings, postgres: RealServer
) -> None:
    orders.set("database__lock_timeout", "20")
    orders.set("database__statement_timeout", "25")
    orders.set("http__default_deadline", "30")
    orders.set("cache__lock_ttl", "30")
    async with orders.running(command) as process, httpx.AsyncClient(timeout=20) as client:

        async def is_draining() -> bool:
            return (await client.get(f"{orders.management_url}/readyz")).status_code == 503

        async with locked_catalogue(postgres, orders_database) as lock:
            await lock.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            if command == "api":
                asking = asyncio.create_task(client.get(f"{orders.url}/v1/products", headers=CALLER))
                await eventually(lambda: lock.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            else:
                await commit_job(postgres, orders_database)
                await eventually(lambda: lock.fetchval("SELECT count(*) FROM job WHERE status = 'running'"))
            process.terminate()
            await eventually(is_draining)
            process.terminate()
            ended = await process.end()
    assert ended.code == 1
    line = ended.lines[-1]
    assert (line["event"], line["reason"]) == ("process_killed", "second signal while draining")
    if command == "api":
        assert line["requests"] == 1
        with pytest.raises(httpx.TransportError):
            await asking
    else:
        assert [name for name in line["left"] if name.startswith("job-")] == ["job-1"]


async def commit_job(postgres: RealServer, settings: DatabaseSettings) -> None:
    """A job that reads an order."""
    connection = await asyncpg.connect(postgres.dsn, database=settings.name)
    await connection.execute(
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts)"
        " VALUES ('request_payment', 'default', 0, jsonb_build_object('order_id', uuidv7()), 1, 3)"
    )
    await connection.close()


async def test_a_worker_told_to_stop_stops_and_exits_with_0(orders: OrdersInstallation) -> None:
    async with orders.running("worker") as process:
        process.terminate()
        ended = await process.end()
    assert ended.code == 0
    assert ended.stderr == ""
    assert ended.of("worker_stopped")


@pytest.mark.parametrize(("command", "which"), [("api", "public"), ("api", "management"), ("worker", "management")])
async def test_a_taken_port_is_said_clearly_and_without_a_traceback(
    orders: OrdersInstallation, command: str, which: str
) -> None:
    port = orders.http_port if which == "public" else orders.management_port
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        ended = await orders.run(command)
    assert ended.code == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    (line,) = ended.of("process_failed")
    assert line["level"] == "critical"
    assert f"127.0.0.1:{port}" in line["reason"]
    assert not ended.of("process_started")


async def test_a_star_is_every_address_of_both_kinds() -> None:
    """A pod has IPv4, IPv6 or both; on two sockets, each caller's address is one of its own kind."""
    port = free_port()
    hosts = ["127.0.0.1", *(["[::1]"] if has_ipv6_loopback() else [])]
    server = Server(Starlette(routes=[Route("/", caller)]), host="*", port=port, drain_timeout=1)
    async with server.running(), httpx.AsyncClient() as client:
        seen = [(await client.get(f"http://{host}:{port}/")).text for host in hosts]
    assert seen == [host.strip("[]") for host in hosts]


async def caller(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.client.host if request.client else "")


async def test_a_request_that_is_on_its_way_when_the_port_closes_is_answered() -> None:
    """Its connection was taken before, and whoever sent it has not heard of the drain."""

    class Closing(Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            asyncio.get_running_loop().call_soon(writer.write, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            await super().shutdown(sockets)

    port = free_port()
    server = Closing(Starlette(routes=[Route("/", caller)]), host="127.0.0.1", port=port, drain_timeout=5)
    async with server.running():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def is_taken_in() -> bool:
            return bool(server.server_state.connections)

        await eventually(is_taken_in)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_an_application_that_cannot_open_its_resources_is_not_served() -> None:
    async def open_resources() -> None:
        raise LookupError("no such pool")

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await open_resources()
        yield

    server = Server(Starlette(lifespan=lifespan), host="127.0.0.1", port=free_port(), drain_timeout=1)
    with captured_logs() as logs, pytest.raises(ServeError):
        async with server.running():
            pytest.fail("it is not served")
    assert any("LookupError: no such pool" in str(line) for line in logs.lines)


@pytest.mark.parametrize(
    ("error", "reason", "has_traceback"),
    [
        (LookupError("lost"), "LookupError: lost", True),
        (HoldfastError("the port is taken"), "HoldfastError: the port is taken", False),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [LookupError("lost")])]), "LookupError: lost", True),
    ],
)
def test_what_ends_a_process_is_its_last_line_and_critical(
    error: Exception, reason: str, *, has_traceback: bool
) -> None:
    class Settings(ServiceSettings):
        service_name = "shop"

    settings = Settings.model_validate({"database": {"name": "shop", "user": "shop", "password": "x"}})
    with captured_logs() as logs, pytest.raises(SystemExit) as exit_, identify(Live(settings), version="1", role="api"):
        raise error
    assert exit_.value.code == 1
    (line,) = logs.of("process_failed")
    assert line["level"] == "critical"
    assert line["reason"] == reason
    assert ("exception" in line) == has_traceback
