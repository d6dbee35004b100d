"""A running application limits its callers by the settings of now, each by its own tier."""

from collections.abc import AsyncIterator

import httpx
import pytest
from api_keys import authenticator, caller
from chassis.app.api import ApiResources, Application, Router
from chassis.app.api.limits import limits_of, spend
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RateLimitSettings, RedisSettings, ServiceSettings
from chassis.pooling import Database, create_redis
from chassis.rate_limiting import Policy, RateLimiter
from fastapi import Request
from pydantic import ValidationError
from redis.asyncio import Redis

router = Router()


@router.get("/", access="orders:read")
async def look() -> str:
    return "seen"


@router.get("/dear", access="orders:read", cost=5)
async def look_closely() -> str:
    return "seen"


@router.get("/from/{address}", access="orders:read")
async def look_from(address: str, request: Request) -> str:
    await spend(request, f"ip:{address}", Policy.of("unauthenticated", limits_of(request).unauthenticated))
    return "seen"


class Settings(ServiceSettings):
    service_name = "shop"


def settings(database: DatabaseSettings, **rate_limit: object) -> Settings:
    return Settings.model_validate({"database": database, "rate_limit": rate_limit})


@pytest.fixture
def live(database_settings: DatabaseSettings) -> Live[Settings]:
    return Live(settings(database_settings, burst=50))


@pytest.fixture
async def client(live: Live[Settings], database: Database, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    app = Application(lambda: live.current.http, routers=[router])
    limiter = RateLimiter(redis, lambda: live.current.rate_limit, service="shop")
    known = await authenticator(database)
    app.resources = ApiResources(
        database=database, health=database, redis=redis, rate_limiter=limiter, authenticator=known, checks={}
    )
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://shop") as ours:
        yield ours


async def look_as_acme(client: httpx.AsyncClient) -> httpx.Response:
    return await client.get("/", headers=caller("acme"))


async def quota(client: httpx.AsyncClient, principal: str = "acme") -> str:
    answer = await client.get("/", headers=caller(principal))
    assert answer.status_code == 200
    return answer.headers["RateLimit-Policy"].partition(";w=")[0]


async def test_a_limit_that_was_reloaded_holds_for_the_next_request(
    client: httpx.AsyncClient, live: Live[Settings], database_settings: DatabaseSettings
) -> None:
    assert await quota(client) == '"default";q=50'
    live.replace(settings(database_settings, burst=20))
    assert await quota(client) == '"default";q=20'


async def test_a_tier_s_factor_holds_for_who_is_in_it(
    client: httpx.AsyncClient, live: Live[Settings], database_settings: DatabaseSettings
) -> None:
    live.replace(settings(database_settings, burst=50, tiers={"gold": 3}, tier_of={"globex": "gold"}))
    assert await quota(client) == '"default";q=50'
    assert await quota(client, "globex") == '"default";q=150'


async def test_a_call_takes_what_its_route_costs_of_its_caller_s_limit_and_of_nobody_else_s(
    client: httpx.AsyncClient, live: Live[Settings], database_settings: DatabaseSettings
) -> None:
    live.replace(settings(database_settings, rate_per_second=0.001, burst=7))
    answers = [
        await client.get(path, headers=caller(principal))
        for path, principal in (("/dear", "acme"), ("/", "acme"), ("/dear", "acme"), ("/dear", "globex"))
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    left = [answer.headers["RateLimit"].partition(";t=")[0] for answer in answers]
    assert left == ['"default";r=2', '"default";r=1', '"default";r=1', '"default";r=2']


async def test_a_dark_launch_refuses_nobody_says_nothing_and_ends_without_a_restart(
    client: httpx.AsyncClient, live: Live[Settings], database_settings: DatabaseSettings
) -> None:
    limit = {"rate_per_second": 0.001, "burst": 1}
    live.replace(settings(database_settings, **limit, dark_launch=True))
    answers = [await look_as_acme(client) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert not any("ratelimit" in name for answer in answers for name in answer.headers)

    live.replace(settings(database_settings, **limit))
    refused = await look_as_acme(client)
    assert refused.status_code == 429
    assert refused.headers["RateLimit"] == '"default";r=0;t=1000'
    assert int(refused.headers["Retry-After"]) == 1000


async def test_a_route_spends_from_any_key_under_any_policy_and_the_answer_names_each(
    client: httpx.AsyncClient, live: Live[Settings], database_settings: DatabaseSettings
) -> None:
    live.replace(settings(database_settings, unauthenticated={"rate_per_second": 0.001, "burst": 2}))
    headers = caller("acme")
    answers = [await client.get(f"/from/{address}", headers=headers) for address in ("a", "b", "a", "a")]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"default";q=50;w=5, "unauthenticated";q=2;w=2000'
    assert answers[3].headers["RateLimit"].endswith('"unauthenticated";r=0;t=2000')
    assert answers[3].headers["Retry-After"] == "1000"


async def test_another_number_of_replicas_holds_without_a_restart(
    live: Live[Settings], database_settings: DatabaseSettings
) -> None:
    unreachable = create_redis(RedisSettings(port=1), timeout=1)
    limiter = RateLimiter(unreachable, lambda: live.current.rate_limit, service="shop")
    policy = Policy("shared", "standard", rate=0.001, burst=8)
    assert (await limiter.check("a", policy)).remaining == 7
    live.replace(settings(database_settings, replicas=4))
    assert (await limiter.check("b", policy)).remaining == 1
    await unreachable.aclose()


def test_a_tier_that_nobody_defined_is_found_at_start() -> None:
    with pytest.raises(ValidationError, match="does not have: gold"):
        RateLimitSettings(tier_of={"acme": "gold"})
