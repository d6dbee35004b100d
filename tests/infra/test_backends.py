"""Which PostgreSQL and Valkey the tests get, and that a test cannot tell them apart."""

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from backends import VARIABLE, RealServer, UnknownBackend, choose
from redis.asyncio import Redis

_TESTS = Path(__file__).parents[1]


_NEEDS_POSTGRES = "chassis/test_migrations.py::test_the_role_of_run_time_cannot_change_the_schema"


def run_pytest(test: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run of one test in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, _TESTS / test]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


def test_without_the_variable_the_embedded_servers_are_started() -> None:
    assert choose({}) == choose({VARIABLE: ""}) == choose({VARIABLE: "embedded"})


def test_each_name_has_servers_of_its_own() -> None:
    assert choose({VARIABLE: "testcontainers"}) != choose({VARIABLE: "embedded"})


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UnknownBackend, match=r"HOLDFAST_TEST_BACKEND=docker: .*there are embedded, testcontainers"):
        choose({VARIABLE: "docker"})


def test_an_unknown_name_ends_a_run_before_its_first_test() -> None:
    ended = run_pytest(_NEEDS_POSTGRES, HOLDFAST_TEST_BACKEND="docker")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert ended.stderr.startswith(f"ERROR: {VARIABLE}=docker: there is no such back end")


@pytest.mark.parametrize("options", [(), ("--numprocesses=1",)], ids=["one process", "workers"])
def test_testcontainers_asks_docker_for_the_servers(options: tuple[str, ...]) -> None:
    variables = {VARIABLE: "testcontainers", "DOCKER_HOST": "unix:///nobody-listens-here"}
    ended = run_pytest(_NEEDS_POSTGRES, *options, **variables)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    assert "DockerException" in ended.stdout


def test_services_that_a_test_starts_do_not_inherit_the_variable() -> None:
    assert VARIABLE not in os.environ


def test_they_do_not_when_it_is_set_either() -> None:
    test = f"infra/test_backends.py::{test_services_that_a_test_starts_do_not_inherit_the_variable.__name__}"
    assert run_pytest(test, HOLDFAST_TEST_BACKEND="embedded").returncode == pytest.ExitCode.OK


async def test_postgres_is_the_version_that_the_platform_runs_and_sorts_alike_everywhere(postgres: RealServer) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    settings = ("server_version_num", "server_encoding", "max_connections", "fsync", "timezone")
    found = {name: await connection.fetchval("SELECT current_setting($1)", name) for name in settings}
    collation = await connection.fetchval(
        "SELECT concat(datlocprovider, ' ', datlocale) FROM pg_database WHERE datname = current_database()"
    )
    await connection.close()
    assert found.pop("server_version_num").startswith("18")
    assert found == {"server_encoding": "UTF8", "max_connections": "200", "fsync": "off", "timezone": "UTC"}
    assert collation == "b C.UTF-8"


async def test_valkey_is_the_version_that_the_platform_runs_and_keeps_nothing(redis: Redis) -> None:
    assert (await redis.info("server"))["valkey_version"].startswith("9.")
    found = await redis.config_get("save", "appendonly", "maxmemory-policy")
    assert found == {"save": "", "appendonly": "no", "maxmemory-policy": "volatile-lfu"}
