"""What is measured, and what it needs: PostgreSQL (durable), Valkey, orders as users run it, and the bare application.

All on loopback, in a temporary folder, gone at the end.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil
from aiohttp import web
from bare import CLIENT
from holdfast_local.databases import create_database
from holdfast_local.placement import passable_folder
from holdfast_local.ports import LOOPBACK, free_port
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.valkey import EmbeddedValkey

SCOPES = ("orders:read", "orders:write")
ORDERS = 60_000
"""To read past the cache, each once; a minute of reads is fewer."""
_HERE = Path(__file__).parent
_COMMANDS = Path(sys.executable).parent
_READY_SECONDS = 30.0


class BenchError(Exception):
    """The comparison cannot be made; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running process: its port, and what it has spent so far."""

    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Of all its threads, in user and system mode."""
        times = self.process.cpu_times()
        return times.user + times.system


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    orders: Server
    bare: Server
    key: str = field(repr=False)
    dsn: str = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)
    """The settings of orders."""
    management_port: int


@asynccontextmanager
async def running_servers(**settings: str) -> AsyncIterator[Stage]:
    """Both servers over the same PostgreSQL; `settings` go over those of orders."""
    pepper, password = secrets.token_hex(32), secrets.token_hex(32)
    measured_on, others_on = _cores()
    async with AsyncExitStack() as stack:
        stack.enter_context(_starting_on(others_on))
        folder = stack.enter_context(passable_folder(prefix="holdfast-bench-"))
        postgres = EmbeddedPostgres(folder / "postgres", port=free_port(), password=password)
        stack.callback(postgres.remove)
        await stack.enter_async_context(postgres)
        valkey = await stack.enter_async_context(EmbeddedValkey(folder / "valkey", port=free_port(), password=password))
        await create_database(
            postgres.dsn, name="orders", owner=("orders_owner", password), runtime=("orders_app", password)
        )
        collector = await stack.enter_async_context(_collector())
        port, management_port, bare_port = free_port(), free_port(), free_port()
        variables = {
            "environment": "prod",  # so that one trace in ten is recorded
            "telemetry__otlp_endpoint": collector,
            "log__format": "json",
            "http__port": port,
            "management__port": management_port,
            "database__port": postgres.port,
            "database__name": "orders",
            "database__user": "orders_app",
            "database__password": password,
            "database__migration_user": "orders_owner",
            "database__migration_password": password,
            "redis__port": valkey.port,
            "redis__password": password,
            # Every request is admitted, and by Redis: also on a busy machine.
            "rate_limit__rate_per_second": 10_000,
            "rate_limit__burst": 1_000_000,
            "redis__timeout": 1,
            "database__pool_timeout": 2,
            "backlog__minimum_rate": 10_000,  # no worker runs here
            "auth__peppers": f'["{pepper}"]',
            "payments__base_url": f"http://{LOOPBACK}:{free_port()}",
            "payments__token_secret": password,
            **settings,
        }
        environment = {f"HOLDFAST_{name.upper()}": str(value) for name, value in variables.items()}
        orders = _COMMANDS / "orders"
        await _run(orders, "migrate", environment=environment)
        dsn = f"postgresql://orders_app:{password}@{LOOPBACK}:{postgres.port}/orders"
        await _fill(f"{postgres.dsn.rpartition('/')[0]}/orders")
        scopes = [part for scope in SCOPES for part in ("--scope", scope)]
        key = await _run(orders, "api-keys", "create", CLIENT, *scopes, environment=environment)
        uvicorn = [_COMMANDS / "uvicorn", "--factory", "bare:create_app", "--port", str(bare_port)]
        quiet = ["--no-access-log", "--log-level", "warning"]  # a line for each request would be work orders also saves
        with _starting_on(measured_on):
            measured = await stack.enter_async_context(_server(orders, "api", environment=environment, port=port))
            bare = await stack.enter_async_context(
                _server(*uvicorn, *quiet, "--app-dir", _HERE, environment={"BARE_DSN": dsn}, port=bare_port)
            )
        yield Stage(
            orders=measured, bare=bare, key=key, dsn=dsn, environment=environment, management_port=management_port
        )


async def _fill(dsn: str) -> None:
    """Orders to read, in tables that PostgreSQL has analysed before either server prepares a statement: for empty
    tables it makes plans that read all orders of a client for each.
    """
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "INSERT INTO orders (client_id, idempotency_key, customer_email, amount, currency, payment_method)"
            " SELECT $1, 'prepared-' || n, 'ada@example.com', 5448, 'EUR', 'pm_card_ok' FROM generate_series(1, $2) n",
            CLIENT,
            ORDERS,
        )
        await connection.execute(
            "INSERT INTO order_line (order_id, position, product_id, quantity, unit_price)"
            " SELECT o.id, line.position, line.product_id, line.quantity, line.unit_price FROM orders o,"
            " (VALUES (1, 'rope', 2, 1999), (2, 'cleat', 1, 1450)) AS line (position, product_id, quantity, unit_price)"
        )
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()


def _cores() -> tuple[set[int], set[int]]:
    """One for the servers that are measured, of which one works at a time, and those for all else: a process that
    shares its core with the database finds its caches cold, and what that costs is not the server's. Of one core both
    get that.
    """
    if not hasattr(os, "sched_getaffinity"):  # Linux has it
        return set(), set()
    measured, *others = sorted(os.sched_getaffinity(0))
    return {measured}, set(others) or {measured}


@contextmanager
def _starting_on(cores: set[int]) -> Iterator[None]:
    """What is started in the block stays on these; anywhere, if they are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@asynccontextmanager
async def _server(*command: str | Path, environment: Mapping[str, str], port: int) -> AsyncIterator[Server]:
    """The process once its port is open; what it writes is read and thrown away."""
    process = await _start(*command, environment=environment)
    assert process.stdout is not None
    reader = asyncio.create_task(_throw_away(process.stdout))
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while not await _is_open(port):
                if process.returncode is not None:
                    raise BenchError(f"{command[0]} ended with code {process.returncode}")
                await asyncio.sleep(0.05)
        yield Server(port=port, process=psutil.Process(process.pid))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reader


async def _throw_away(stream: asyncio.StreamReader) -> None:
    while await stream.read(65_536):
        pass


async def _is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


async def _run(*command: str | Path, environment: Mapping[str, str]) -> str:
    """The command's last line."""
    process = await _start(*command, environment=environment)
    output, _ = await process.communicate()
    if process.returncode:
        raise BenchError(f"{command[0]} ended with code {process.returncode}: {output.decode()[-2000:]}")
    return output.decode().strip().rpartition("\n")[2]


async def _start(*command: str | Path, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return await asyncio.create_subprocess_exec(
        *command,
        env=inherited | environment,
        stdout=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def _collector() -> AsyncIterator[str]:
    """The base URL of an OTLP collector that takes every span and keeps none."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    application = web.Application()
    application.router.add_post("/v1/traces", take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
