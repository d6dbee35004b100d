"""A process that serves starts quickly: it imports what it uses, and the garbage collector waits until it is ready."""

import gc
from pathlib import Path

import httpx
import pytest
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.process import garbage
from service_process import OrdersInstallation, Running

FOR_NEITHER = {
    "alembic",  # a migration's
    "chassis.migrations",
    "typer",  # an operator's commands'
    "chassis.app.cli.commands",
    "structlog",  # a terminal's
    "rich",
    "pygments",
    "opentelemetry.exporter",  # a collector's
    "requests",
    "grpc",
    "jsonschema",
    # Parts of these two, because Python lists a module whose import is refused, too.
    "opentelemetry.sdk.metrics._internal",
    "pydantic.v1.main",
}
NOT_FOR = {
    "api": FOR_NEITHER | {"aiosmtplib", "chassis.app.worker", "chassis.jobs.runner"},
    "worker": FOR_NEITHER | {"fastapi", "chassis.app.api", "chassis.rate_limiting"},
}


@pytest.fixture
def orders(tmp_path: Path, database_settings: DatabaseSettings, redis_settings: RedisSettings) -> OrdersInstallation:
    installation = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    installation.variables["PYTHONPROFILEIMPORTTIME"] = "1"  # Python writes a line to stderr for each module
    return installation


async def _imported(running: Running) -> set[str]:
    """Every module that the process has imported, and its packages."""
    running.terminate()
    lines = (await running.end()).stderr.splitlines()
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return {module.rsplit(".", parts)[0] for module in modules for parts in range(module.count(".") + 1)}


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_a_process_that_serves_imports_only_what_it_uses(orders: OrdersInstallation, role: str) -> None:
    async with orders.running(role) as running:
        imported = await _imported(running)
    assert "sqlalchemy" in imported
    assert imported & NOT_FOR[role] == set()


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_the_garbage_collector_does_not_look_through_the_objects_of_start_up(
    orders: OrdersInstallation, role: str
) -> None:
    async with orders.running(role), httpx.AsyncClient() as client:
        lines = (await client.get(f"{orders.management_url}/metrics")).text.splitlines()
    assert 'python_gc_collections_total{generation="2"} 0.0' in lines


def test_the_garbage_collector_works_once_the_process_has_started() -> None:
    try:
        garbage.pause()
        assert not gc.isenabled()
        garbage.freeze_start_up()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("arguments", "code", "explanation"),
    [
        (("--set",), 2, "requires an argument"),
        (("--sett", "a=b"), 2, "No such option"),
        (("extra",), 2, "unexpected extra argument"),
        (("--help",), 0, "Serve the public API."),
    ],
)
async def test_a_wrong_call_of_a_serving_command_is_explained(
    orders: OrdersInstallation, arguments: tuple[str, ...], code: int, explanation: str
) -> None:
    del orders.variables["PYTHONPROFILEIMPORTTIME"]
    ended = await orders.run("api", *arguments)
    assert ended.code == code
    assert explanation in ended.stdout + ended.stderr


async def test_both_spellings_of_an_option_are_read(orders: OrdersInstallation) -> None:
    del orders.variables["PYTHONPROFILEIMPORTTIME"]
    ended = await orders.run("worker", "--set", "http.port=0", "--set=cache.ttl=-1")
    assert sorted(line.strip().partition(":")[0] for line in ended.stderr.splitlines()[1:]) == [
        "HOLDFAST_CACHE__TTL",
        "HOLDFAST_HTTP__PORT",
    ]
