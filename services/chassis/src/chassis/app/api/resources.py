"""The resources of an API: those that every API opens when it starts, and those that a service adds for its routes.

A service declares its own resources in its `routes.py`. In this example, a handler receives these resources through a
parameter of the type `Given`:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Resources:
        database: Database
        orders: Cache[OrderView]

    Given = Annotated[Resources, Depends(opened(Resources))]
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from redis.asyncio import Redis
from starlette.requests import Request

from chassis.app.pools import open_pools
from chassis.auth import Authenticator
from chassis.auth.api_keys import ApiKeys
from chassis.circuit_breaker import BreakerRegistry
from chassis.config import Live
from chassis.config.settings import ServiceSettings
from chassis.logging import get_logger
from chassis.pooling import Database, create_shared_redis
from chassis.process.health import Check
from chassis.rate_limiting import RateLimiter

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiResources:
    """The resources of every API. `Application` uses the rate limiter and the authenticator for each request."""

    database: Database
    health: Database
    """A pool of one connection for health checks and measurements, which must work while requests use all other
    connections.
    """
    redis: Redis
    rate_limiter: RateLimiter
    authenticator: Authenticator
    checks: Mapping[str, Check]
    """Health checks by name. While a check fails, the process is not ready."""
    breakers: BreakerRegistry = field(default_factory=BreakerRegistry)
    """The breakers of the calls that the service's routes make to other services."""


type OpenResources[S: ServiceSettings] = Callable[[Live[S], ApiResources], AbstractAsyncContextManager[object]]
"""A service's composition root: it opens the resources of the routes when the process starts, and closes them after the
last request.
"""


@asynccontextmanager
async def open_nothing_more[S: ServiceSettings](_: Live[S], base: ApiResources) -> AsyncIterator[ApiResources]:
    """The composition root of a service whose routes need only the resources of every API."""
    yield base


def opened[R](kind: type[R]) -> Callable[[Request], Awaitable[R]]:
    """A FastAPI dependency that returns the object of the type `kind` that the service's `OpenResources` yielded."""

    async def find(request: Request) -> R:
        found: object = request.app.opened
        if not isinstance(found, kind):
            raise TypeError(f"the routes need {kind.__qualname__}, but {type(found).__qualname__} was opened")
        return found

    return find


@asynccontextmanager
async def open_api_resources[S: ServiceSettings](
    live: Live[S], breakers: BreakerRegistry
) -> AsyncIterator[ApiResources]:
    """Open the pools, read the API keys, and make the rate limiter and the authenticator."""
    settings = live.current
    redis = create_shared_redis(settings.redis, timeout=settings.redis.timeout)
    async with open_pools(live, role="api", pool="requests", redis=redis) as pools:
        # The keys are read through the pool for health checks, so a revocation takes effect even while requests use all
        # other connections.
        keys = ApiKeys(pools.health, lambda: live.current.auth)
        async with keys.refreshing():
            live.watch(partial(_compare_clients, keys))
            yield ApiResources(
                database=pools.database,
                health=pools.health,
                redis=redis,
                rate_limiter=RateLimiter(redis, lambda: live.current.rate_limit, service=settings.service_name),
                authenticator=Authenticator(keys, lambda: live.current.auth, service=settings.service_name),
                # There is no check of Redis, because an API answers requests without Redis.
                checks={"database": pools.health.ping},
                breakers=breakers,
            )


def _compare_clients(keys: ApiKeys, settings: ServiceSettings) -> None:
    """Log a warning if more clients have keys than `rate_limit.clients`, the number of clients for which the limits
    were computed.

    The process still starts, because the clients may never use their whole limits at the same time.
    """
    clients = len(keys.principals)
    if settings.causes and clients > settings.rate_limit.clients:
        log.warning("more_clients_than_limits_fit", clients=clients, fit=settings.rate_limit.clients)
