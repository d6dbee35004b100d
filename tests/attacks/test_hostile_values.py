"""What stands in a path, a query or a body of any route, public or management: a stranger's value is never a 500."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import httpx
import notifications.api
import orders.api
import payments.api
import pytest
import webhook_ingest.api
from api_keys import PEPPERS, caller
from backends import FreshDatabase
from chassis.app.api.application import Application
from chassis.circuit_breaker import BreakerRegistry
from chassis.circuit_breaker import routes as breaker_routes
from chassis.config import Live
from chassis.config.settings import (
    ExternalDependencySettings,
    RateLimitSettings,
    RedisSettings,
    ServiceDependencySettings,
)
from chassis.jobs import routes as job_routes
from chassis.pooling import Database
from chassis.process.health import Health
from chassis.process.management_app import management_app
from notifications.settings import NotificationsSettings
from orders.settings import OrdersSettings
from payments.settings import PaymentsSettings
from pydantic import SecretStr
from redis.asyncio import Redis
from webhook_ingest.settings import WebhookIngestSettings, WebhookSecretSettings

VALUES = (
    *("-1", "0", str(2**31), str(2**63 - 1), str(2**63), str(2**64), "9" * 400, "9" * 5000, "1e9", "0x1", "1_000", "٣"),
    *(
        "%00",
        "a%00b",
        "%ED%A0%80",
        "%FF",
        "%F0%9F%9A%80",
        "x" * 7000,
        "'",
        "%0A",
        "%20",
        "..%2F..",
        "null",
        "true",
        "[]",
    ),
)
"""As they stand in a URL."""
DEPTHS = (100, 254, 255, 256, 1000, 1023, 1024, 1025, 20_000)
TOKEN = SecretStr("t" * 64)
WEBHOOK_SECRET = SecretStr("whsec_" + "YWJj" * 10)
NOWHERE = "http://127.0.0.1:9"

SERVICES: Mapping[str, Any] = {
    "orders": lambda common: orders.api.create_app(
        Live(
            OrdersSettings(
                **common, payments=ServiceDependencySettings(base_url=NOWHERE, token_secret=SecretStr("t" * 64))
            )
        )
    ),
    "payments": lambda common: payments.api.create_app(
        Live(
            PaymentsSettings(**common, provider=ExternalDependencySettings(base_url=NOWHERE, api_key=SecretStr("key")))
        )
    ),
    "notifications": lambda common: notifications.api.create_app(Live(NotificationsSettings(**common))),
    "webhook_ingest": lambda common: webhook_ingest.api.create_app(
        Live(WebhookIngestSettings(**common, webhook_secrets=WebhookSecretSettings(payment_provider=(WEBHOOK_SECRET,))))
    ),
}


@pytest.fixture(params=SERVICES)
async def app(
    request: pytest.FixtureRequest, empty_database: FreshDatabase, redis: Redis, redis_settings: RedisSettings
) -> AsyncIterator[Application]:
    """Each service's API, on a real database and Redis."""
    everything = {"rate_per_second": 10_000, "burst": 100_000}
    common: dict[str, Any] = {
        "database": await empty_database(request.param),
        "redis": redis_settings.model_copy(update={"timeout": 2.0}),
        "auth": PEPPERS,
        "rate_limit": RateLimitSettings.model_validate({**everything, "unauthenticated": everything}),
    }
    app: Application = SERVICES[request.param](common)
    async with app.router.lifespan_context(app):
        yield app


@asynccontextmanager
async def client_of(app: Any, headers: Mapping[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client that checks each answer: below 500, and an error is in the envelope."""

    async def check(answer: httpx.Response) -> None:
        await answer.aread()
        assert answer.status_code < 500, f"{answer.request.method} {answer.request.url}: {answer.text[:300]}"
        if answer.status_code >= 400:
            assert {"error", "request_id"} == answer.json().keys()

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    hooks = {"response": [check]}
    async with httpx.AsyncClient(transport=transport, base_url="http://service", event_hooks=hooks) as client:
        client.headers.update(headers)
        yield client


def operations(app: Application) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, item in app.openapi()["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def in_place(path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    """The route's URL with each value in each place of its path and its query; what else it needs is right."""
    parameters = [one for one in operation.get("parameters", ()) if one["in"] in {"path", "query"}]
    right = {one["name"]: right_value(one["schema"]) for one in parameters}
    for one, value in product(parameters, VALUES):
        given = right | {one["name"]: value}
        query = "&".join(f"{name['name']}={given[name['name']]}" for name in parameters if name["in"] == "query")
        yield f"{path.format_map(given)}?{query}"


def right_value(schema: Mapping[str, Any]) -> str:
    shapes = [schema, *schema.get("anyOf", ())]
    if any(shape.get("format") == "uuid" for shape in shapes):
        return "0198f1a2-7d5e-7000-8000-000000000001"
    return next((str(shape["enum"][0]) for shape in shapes if "enum" in shape), "1")


async def test_no_value_in_a_path_or_a_query_of_a_service_is_a_failure(app: Application) -> None:
    async with client_of(app, caller("shop") | {"Idempotency-Key": "key"}) as client:
        for method, path, operation in operations(app):
            body = {} if "requestBody" in operation else None
            for url in in_place(path, operation):
                await client.request(method, url, json=body)


async def test_no_depth_of_a_body_is_a_failure(app: Application) -> None:
    async with client_of(app, caller("shop") | {"Idempotency-Key": "key"}) as client:
        for method, path, operation in operations(app):
            if "requestBody" not in operation:
                continue
            names = {one["name"]: right_value(one["schema"]) for one in operation.get("parameters", ())}
            for depth, (begin, end) in product(DEPTHS, (("[", "]"), ('{"a":', "}"))):
                body = begin * depth + ("1" if "{" in begin else "") + end * depth
                url = path.format_map(names)
                for content in (body, f'{{"lines": {body}, "url": {body}}}'):
                    answer = await client.request(
                        method, url, content=content, headers={"Content-Type": "application/json"}
                    )
                    assert 400 <= answer.status_code < 500


async def test_no_value_in_a_field_of_a_body_is_a_failure(app: Application) -> None:
    """JSON's own oddities: half a surrogate pair, NUL, numbers beyond 64 bits, beyond a float, and of 5,000 digits."""
    odd = (r'"\ud800"', r'"\u0000"', "1e999", "-1e999", str(2**63), str(-(2**63) - 1), "9" * 4000, "9" * 5000, "NaN")
    async with client_of(app, caller("shop") | {"Idempotency-Key": "key"}) as client:
        for method, path, operation in operations(app):
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            fields = app.openapi()["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
            names = {one["name"]: right_value(one["schema"]) for one in operation.get("parameters", ())}
            for field, value in product([*fields.get("properties", ()), "unknown"], odd):
                for content in (f'{{"{field}": {value}}}', f'{{"{field}": [{{"product_id": {value}}}]}}'):
                    url, kind = path.format_map(names), {"Content-Type": "application/json"}
                    if "requestBody" in operation:
                        await client.request(method, url, content=content, headers=kind)


@pytest.fixture
async def management(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A worker's management port, with all that a worker adds to it."""
    routes = [*job_routes.routes(database), *breaker_routes.routes(BreakerRegistry())]
    app = management_app(Health(), {}, token=lambda: TOKEN, routes=routes)
    async with client_of(app, {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}) as client:
        yield client


QUERIES = ("name", "queue", "error", "all", "dry_run", "job_id", "unknown")


async def test_no_value_in_a_path_or_a_query_of_the_management_port_is_a_failure(
    management: httpx.AsyncClient,
) -> None:
    asked = (("GET", "/jobs/stats"), ("GET", "/jobs/left"), ("GET", "/jobs/dead"), ("POST", "/jobs/replay?all=true"))
    for (method, path), query, value in product(asked, QUERIES, VALUES):
        await management.request(method, f"{path}{'&' if '?' in path else '?'}{query}={value}")
    for method, end, value in product(("GET", "POST"), ("", "/replay"), VALUES):
        await management.request(method, f"/jobs/{value}{end}")


async def test_no_body_of_the_management_port_is_a_failure(management: httpx.AsyncClient) -> None:
    for path, depth in product(("/log-levels", "/breakers"), (100, 254, 255, 256, 500)):
        assert (await management.put(path, content="[" * depth + "]" * depth)).status_code in {400, 413, 422}
    for path, value in product(("/log-levels", "/breakers"), (r'"\ud800"', r'"\u0000"', "1e999", "9" * 900, "NaN")):
        for field in ("logger", "level", "seconds", "dependency", "operation", "mode", "unknown"):
            content = f'{{"{field}": {value}, "logger": "chassis", "level": "INFO", "seconds": 5}}'
            await management.put(path, content=content)


async def test_a_job_s_number_that_no_job_can_have_is_not_found(management: httpx.AsyncClient) -> None:
    for number in (str(2**63), "9" * 5000, "-1", "%00", "abc", "٣"):
        assert (await management.get(f"/jobs/{number}")).status_code == 404
        assert (await management.post(f"/jobs/{number}/replay")).status_code == 404


async def test_a_filter_with_a_nul_in_it_is_named(management: httpx.AsyncClient) -> None:
    for url in ("/jobs/dead?error=a%00", "/jobs/dead?name=%00", "/jobs/left?queue=%00"):
        answer = await management.get(url)
        assert answer.status_code == 422
        assert answer.json()["error"]["details"][0]["field"] == url.partition("?")[2].partition("=")[0]
