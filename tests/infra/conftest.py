"""A healthy platform for the tests of the oracle (`planting`), and the oracle's command."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import asyncpg
import pytest
from backends import FreshDatabase
from oracle.cli import app
from oracle.sources import Sources
from planting import Planted
from simulator_process import Simulator, customer_endpoint, mailbox, payment_provider
from typer.testing import CliRunner, Result

PACKAGES = {
    "orders": "orders",
    "payments": "payments",
    "notifications": "notifications",
    "webhook-ingest": "webhook_ingest",
}


@pytest.fixture(scope="session")
async def databases(fresh_database: FreshDatabase) -> dict[str, str]:
    """A DSN per service."""
    settings = {service: await fresh_database(package) for service, package in PACKAGES.items()}
    return {
        service: f"postgresql://{s.user}:{s.password.get_secret_value()}@{s.host}:{s.port}/{s.name}"
        for service, s in settings.items()
    }


@pytest.fixture(scope="session")
async def connections(databases: Mapping[str, str]) -> AsyncIterator[dict[str, asyncpg.Connection]]:
    opened = {service: await asyncpg.connect(dsn) for service, dsn in databases.items()}
    yield opened
    for connection in opened.values():
        await connection.close()


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, tuple[Simulator, Path]]]:
    """The three simulators, each with its file."""
    folder = tmp_path_factory.mktemp("outside")
    simulators = {
        "payment-provider": (payment_provider(folder, "http://127.0.0.1:9/"), folder / "p.db"),
        "mailbox": (mailbox(folder), folder / "m.db"),
        "customer-endpoint": (customer_endpoint(folder), folder / "c.db"),
    }
    for simulator, _ in simulators.values():
        simulator.start()
    yield simulators
    for simulator, _ in simulators.values():
        simulator.end()


@pytest.fixture(scope="session")
def urls(outside: Mapping[str, tuple[Simulator, Path]]) -> dict[str, str]:
    return {
        name: f"http://127.0.0.1:{next(iter(simulator.ports.values()))}" for name, (simulator, _) in outside.items()
    }


@pytest.fixture
def sources(databases: Mapping[str, str], urls: Mapping[str, str]) -> Sources:
    return Sources(
        **{f"{PACKAGES[service]}_dsn": dsn for service, dsn in databases.items()},
        provider_url=urls["payment-provider"],
        mailbox_url=urls["mailbox"],
        customer_url=urls["customer-endpoint"],
    )


@pytest.fixture
async def planted(connections, outside, urls, tmp_path: Path) -> Planted:
    """As it was recorded."""
    files = {name: file for name, (_, file) in outside.items()}
    platform = Planted(connections=connections, files=files, history=tmp_path / "history.jsonl", urls=urls)
    await platform.restore()
    return platform


@pytest.fixture
def environment(sources) -> dict[str, str]:
    names = ("orders_dsn", "payments_dsn", "notifications_dsn", "webhook_ingest_dsn")
    urls = ("provider_url", "mailbox_url", "customer_url")
    return {f"ORACLE_{name.upper()}": getattr(sources, name) for name in (*names, *urls)}


@pytest.fixture
def ask(environment) -> Callable[..., Awaitable[Result]]:
    """The command, in a thread."""

    async def run(*options: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
        variables = environment if env is None else env
        arguments = ["--wait", "0", *options]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments, env=variables, input=stdin)

    return run
