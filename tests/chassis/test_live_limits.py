"""A running application limits its callers by the settings of now, each by its own tier."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from chassis.app import create_app, rate_limited
from chassis.app.resources import ApiResources
from chassis.auth import hash_key
from chassis.config import Live
from chassis.pooling import Database
from chassis.rate_limiting import RateLimiter
from chassis.settings import DatabaseSettings, RateLimitSettings, ServiceSettings
from fastapi import APIRouter
from pydantic import ValidationError
from redis.asyncio import Redis

PEPPER = "p" * 32
KEYS = {name: [hash_key(f"key-of-{name}", PEPPER)] for name in ("acme", "globex")}

router = APIRouter()


@router.get("/", dependencies=[rate_limited()])
async def look() -> str:
    return "seen"


class Settings(ServiceSettings):
    service_name = "shop"


def settings(database: DatabaseSettings, **rate_limit: object) -> Settings:
    return Settings.model_validate(
        {"database": database, "auth": {"keys": KEYS, "peppers": [PEPPER]}, "rate_limit": rate_limit}
    )


@pytest.fixture
def live(database_settings: DatabaseSettings) -> Live[Settings]:
    return Live(settings(database_settings, burst=50))


@pytest.fixture
async def client(live: Live[Settings], database: Database, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    @asynccontextmanager
    async def open_resources() -> AsyncIterator[ApiResources]:
        limiter = RateLimiter(redis, RateLimitSettings(), namespace="shop", timeout=5)
        yield ApiResources(database=database, redis=redis, rate_limiter=limiter, checks={})

    app = create_app(live, version="1", routers=[router], open_resources=open_resources)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://shop") as ours:
        yield ours


async def quota(client: httpx.AsyncClient, principal: str = "acme") -> str:
    answer = await client.get("/", headers={"Authorization": f"Bearer key-of-{principal}"})
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


def test_a_tier_that_nobody_defined_is_found_at_start() -> None:
    with pytest.raises(ValidationError, match="does not have: gold"):
        RateLimitSettings(tier_of={"acme": "gold"})
