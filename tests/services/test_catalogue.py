"""The catalogue: one product and all of them, each asked of the database once and answered 304 to who has it."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
from backends import FreshDatabase
from chassis.config import Live
from chassis.config.settings import RateLimitSettings, RedisSettings
from harness import AUTH, own_service, running
from orders.api import create_app
from orders.settings import OrdersSettings
from prometheus_client import REGISTRY
from redis.asyncio import Redis

ROPE = {"id": "rope", "name": "Mooring rope, 10 m", "price": 1999, "currency": "EUR"}


@pytest.fixture
async def client(empty_database: FreshDatabase, patient_redis: RedisSettings) -> AsyncIterator[httpx.AsyncClient]:
    settings = OrdersSettings(
        database=await empty_database("orders"),
        redis=patient_redis,
        auth=AUTH,
        rate_limit=RateLimitSettings(rate_per_second=1, burst=500),
        payments=own_service("http://127.0.0.1:1"),
    )
    async with running(create_app(Live(settings))) as client_of, client_of() as client:
        yield client


async def test_a_product_is_answered_by_its_id_from_the_cache_from_then_on(client: httpx.AsyncClient) -> None:
    before = hits()
    first, second = [await client.get("/v1/products/rope") for _ in range(2)]
    assert first.json() == second.json() == ROPE
    assert first.content == second.content
    assert hits() - before == 1


async def test_an_unknown_product_is_a_404_and_its_absence_is_remembered_for_seconds(
    client: httpx.AsyncClient, redis: Redis
) -> None:
    for _ in range(2):
        answer = await client.get("/v1/products/anvil")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")
    (key,) = await redis.keys("*product*")
    assert 0 < await redis.ttl(key) <= 5


@pytest.mark.parametrize("product_id", ["a" * 65, "a%00b", "a%20b", "%F0%9F%98%80", "a%7Db"])
async def test_what_can_be_no_products_id_is_refused_and_takes_no_place_in_the_cache(
    client: httpx.AsyncClient, redis: Redis, product_id: str
) -> None:
    answer = await client.get(f"/v1/products/{product_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "VALIDATION_FAILED")
    assert await redis.keys("*product*") == []


@pytest.mark.parametrize("path", ["/v1/products/rope", "/v1/products"])
async def test_who_has_the_current_answer_is_told_so_by_304_with_its_limits_and_without_a_body(
    client: httpx.AsyncClient, path: str
) -> None:
    first = await client.get(path)
    again = await client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert {"ratelimit", "ratelimit-policy", "x-request-id", "cache-control"} <= again.headers.keys()
    other = await client.get("/v1/products/anchor", headers={"If-None-Match": first.headers["etag"]})
    assert (other.status_code, other.json()["id"]) == (200, "anchor")


async def test_the_list_has_each_product_as_it_is_answered_alone(client: httpx.AsyncClient) -> None:
    items = (await client.get("/v1/products")).json()["items"]
    assert ROPE in items
    assert [(await client.get(f"/v1/products/{item['id']}")).json() for item in items] == items


async def test_a_404_is_not_made_a_304_by_any_tag(client: httpx.AsyncClient) -> None:
    assert (await client.get(f"/v1/products/{uuid4()}", headers={"If-None-Match": "*"})).status_code == 404


def hits() -> float:
    return REGISTRY.get_sample_value("cache_requests_total", {"cache": "orders:product", "result": "hit"}) or 0.0
