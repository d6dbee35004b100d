"""Alive, started, ready and draining are four different things, and only readiness asks a dependency."""

import asyncio
import os
from collections.abc import AsyncIterator

import httpx
import pytest
from chassis.process import background
from chassis.process import health as health_module
from chassis.process.health import Health
from chassis.process.management_app import management_app


class Dependency:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def check(self) -> None:
        self.asked += 1
        await self.answers.wait()
        if self.error:
            raise self.error


@pytest.fixture
def dependency() -> Dependency:
    return Dependency()


@pytest.fixture
def health(dependency: Dependency) -> Health:
    return Health({"database": dependency.check})


@pytest.fixture
async def client(health: Health) -> AsyncIterator[httpx.AsyncClient]:
    app = management_app(health, {"service": "shop", "config_hash": "0123456789ab"}, token=lambda: None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        yield client


async def test_a_process_is_alive_whatever_its_dependencies_do(
    client: httpx.AsyncClient, dependency: Dependency
) -> None:
    dependency.error = ConnectionError()
    assert (await client.get("/livez")).status_code == 200
    assert dependency.asked == 0


async def test_it_is_ready_once_started_and_while_its_dependencies_answer(
    client: httpx.AsyncClient, health: Health, dependency: Dependency
) -> None:
    assert (await client.get("/startupz")).status_code == 503
    assert (await client.get("/readyz")).json()["problems"] == {"process": "still starting"}
    health.mark_started()
    assert (await client.get("/startupz")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200
    dependency.error = ConnectionError("password=hunter2")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "problems": {"database": "ConnectionError"},
        "failing_tasks": background.failing(),
    }
    dependency.error = None
    assert (await client.get("/readyz")).status_code == 200


async def test_a_dependency_that_hangs_is_named_before_the_probe_gives_up(
    client: httpx.AsyncClient, health: Health, dependency: Dependency, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "CHECK_TIMEOUT", 0.02)
    health.mark_started()
    dependency.answers.clear()
    assert "no answer within" in (await client.get("/readyz")).json()["problems"]["database"]


async def test_a_draining_process_is_not_ready_but_alive(client: httpx.AsyncClient, health: Health) -> None:
    health.mark_started()
    health.mark_draining()
    assert (await client.get("/readyz")).json()["problems"] == {"process": "shutting down"}
    assert (await client.get("/livez")).status_code == 200


async def test_info_says_who_it_is_and_metrics_can_be_scraped(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()
    assert info["service"] == "shop"
    assert info["config_hash"] == "0123456789ab"
    assert info["pid"] == os.getpid()
    metrics = await client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "# TYPE http_server_request_duration_seconds histogram" in metrics.text or "process_" in metrics.text
