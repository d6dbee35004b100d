"""What every API opens when it starts: its pools, its limiter, its health checks. Closed in reverse order."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Self

from redis.asyncio import Redis
from starlette.requests import Request

from chassis.auth import Authenticator
from chassis.auth.api_keys import ApiKeys
from chassis.config import Live
from chassis.config.settings import ServiceSettings
from chassis.pooling import Database, create_shared_redis, open_health_pool
from chassis.pooling.budget import check_budget
from chassis.pooling.installation import claim_at_start, keep_claim
from chassis.pooling.wakeup import Wakeups
from chassis.process.background import supervised
from chassis.process.health import Check
from chassis.rate_limiting import RateLimiter


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiResources:
    """What routes are given. A service whose routes need more derives its own from it."""

    database: Database
    redis: Redis
    rate_limiter: RateLimiter
    authenticator: Authenticator
    checks: Mapping[str, Check]

    @classmethod
    def of(cls, base: "ApiResources", **own: Any) -> Self:
        """What `base` has, and what a service's own class adds to it."""
        return cls(**{one.name: getattr(base, one.name) for one in fields(ApiResources)}, **own)


@asynccontextmanager
async def open_api_resources[S: ServiceSettings](live: Live[S]) -> AsyncIterator[ApiResources]:
    """The database (which wakes workers after a commit), its API keys, Redis for limits and caches, and the checks."""
    settings = live.current

    name = f"{settings.service_name}-api"
    async with AsyncExitStack() as stack:
        wakeups = await stack.enter_async_context(
            Wakeups(settings.database, application_name=name, passwords=live.passwords)
        )
        database = Database(
            settings.database, pool="requests", application_name=name, notify=wakeups.notify, passwords=live.passwords
        )
        stack.push_async_callback(database.close)
        health = open_health_pool(settings.database, application_name=name, passwords=live.passwords)
        stack.push_async_callback(health.close)
        await check_budget(live, health)
        # On that connection, too: that a key is revoked must be heard while requests wait for one.
        keys = ApiKeys(health, lambda: live.current.auth)
        await stack.enter_async_context(keys.followed())
        redis = create_shared_redis(settings.redis, timeout=settings.redis.timeout)
        stack.push_async_callback(redis.aclose)
        await claim_at_start(redis, health, service=settings.service_name)
        await stack.enter_async_context(
            supervised(partial(keep_claim, redis, health, service=settings.service_name), name="redis-claim")
        )
        yield ApiResources(
            database=database,
            redis=redis,
            rate_limiter=RateLimiter(redis, lambda: live.current.rate_limit, namespace=settings.service_name),
            authenticator=Authenticator(keys, lambda: live.current.auth, service=settings.service_name),
            # Without Redis requests are still answered, so it is no reason to be taken out.
            checks={"database": health.ping},
        )


async def resources(request: Request) -> Any:
    """A route's dependency: what the composition root opened."""
    return request.app.resources
