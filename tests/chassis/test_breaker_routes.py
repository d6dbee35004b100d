"""Breakers on the management port: anyone inside may look; who overrules one shows the token and is written down."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from captured_logs import CapturedLogs, captured_logs
from chassis.circuit_breaker import BreakerRegistry, CircuitBreaker
from chassis.circuit_breaker import routes as breaker_routes
from chassis.config.settings import BreakerSettings
from chassis.errors import BreakerOpen
from chassis.process.health import Health
from chassis.process.management_app import management_app
from pydantic import SecretStr

TOKEN = "t" * 64


@pytest.fixture
def logs() -> Iterator[CapturedLogs]:
    with captured_logs() as logs:
        yield logs


@pytest.fixture
def breakers() -> BreakerRegistry:
    return BreakerRegistry(clock=lambda: 1000.0)


@pytest.fixture
def charge(breakers: BreakerRegistry) -> CircuitBreaker:
    return breakers.get("provider", "charge", BreakerSettings())


@pytest.fixture
async def port(breakers: BreakerRegistry) -> AsyncIterator[httpx.AsyncClient]:
    app = management_app(
        Health(), {"service": "shop"}, token=lambda: SecretStr(TOKEN), routes=breaker_routes.routes(breakers)
    )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop", headers=headers) as client:
        yield client


def asked(**fields: object) -> dict[str, object]:
    return {"dependency": "provider", "operation": "charge", "mode": "forced_open", "seconds": 60} | fields


def shown(mode: str, state: str, seconds: float | None) -> dict[str, object]:
    return {
        "dependency": "provider",
        "operation": "charge",
        "state": state,
        "mode": mode,
        "mode_seconds_left": seconds,
    }


async def test_a_breaker_is_overruled_shown_and_written_down(
    logs: CapturedLogs, port: httpx.AsyncClient, charge: CircuitBreaker
) -> None:
    assert (await port.get("/breakers")).json() == [shown("automatic", "closed", None)]
    changed = await port.put("/breakers", json=asked())
    assert (changed.status_code, changed.json()) == (200, shown("forced_open", "open", 60.0))
    assert (await port.get("/breakers")).json() == [shown("forced_open", "open", 60.0)]
    with pytest.raises(BreakerOpen), charge.permit():
        pass
    line = logs.one("management_changed")
    assert {name: line[name] for name in ("dependency", "operation", "to", "original", "seconds", "client")} == {
        "dependency": "provider",
        "operation": "charge",
        "to": "forced_open",
        "original": "automatic",
        "seconds": 60,
        "client": "127.0.0.1",
    }
    assert line["by"].startswith("secret:")
    assert TOKEN not in logs.text


async def test_it_is_given_back_and_an_hour_is_what_it_takes_unless_it_is_said(
    port: httpx.AsyncClient, charge: CircuitBreaker
) -> None:
    body = asked(mode="disabled")
    del body["seconds"]
    assert (await port.put("/breakers", json=body)).json() == shown("disabled", "closed", 3600.0)
    assert (await port.put("/breakers", json=asked(mode="automatic"))).json() == shown("automatic", "closed", None)
    assert charge.snapshot().mode == "automatic"


@pytest.mark.parametrize("authorization", ["", "Bearer wrong"])
async def test_without_the_token_nothing_is_overruled(
    port: httpx.AsyncClient, charge: CircuitBreaker, authorization: str
) -> None:
    answer = await port.put("/breakers", json=asked(), headers={"Authorization": authorization})
    assert (answer.status_code, charge.snapshot().mode) == (401, "automatic")
    assert (await port.get("/breakers", headers={"Authorization": authorization})).status_code == 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (asked(seconds=0), {"seconds"}),
        (asked(seconds=86_401), {"seconds"}),
        (asked(mode="open", seconds="long"), {"mode", "seconds"}),
        (asked(operation="chrage"), {"operation"}),
        (asked(dependency="bank"), {"operation"}),
        (asked(why="curious"), {"why"}),
        ({}, {"dependency", "operation", "mode"}),
        ([], {"body"}),
    ],
)
async def test_what_is_wrong_is_said_in_the_envelope_and_changes_nothing(
    port: httpx.AsyncClient, charge: CircuitBreaker, body: object, fields: set[str]
) -> None:
    answer = await port.put("/breakers", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "VALIDATION_FAILED")
    assert {detail["field"] for detail in error["details"]} == fields
    assert charge.snapshot().mode == "automatic"


async def test_a_misspelt_breaker_is_answered_with_those_that_there_are(
    port: httpx.AsyncClient, charge: CircuitBreaker
) -> None:
    answer = await port.put("/breakers", json=asked(operation="chrage"))
    (detail,) = answer.json()["error"]["details"]
    assert detail["message"].endswith(f"there are: {charge.dependency}/{charge.operation}.")
    assert detail["received"] == "provider/chrage"


async def test_another_method_is_told_of_both(port: httpx.AsyncClient) -> None:
    answer = await port.post("/breakers")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, PUT")
