"""An API with both of its ports, for attacks on what every API of this platform has; `shop` is its fixture."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from api_keys import PEPPERS, authenticator
from chassis.app.api import ApiResources, Application, Caller, Keyed, Router
from chassis.config.settings import DatabaseSettings, HttpSettings, RateLimitSettings, ServiceSettings
from chassis.pooling import Database
from chassis.process.http_protocol import HttpProtocol
from chassis.process.management_app import management_app
from chassis.process.server import Server
from chassis.rate_limiting import RateLimiter
from fastapi import Body
from holdfast_local.ports import free_port
from pydantic import SecretStr
from redis.asyncio import Redis

MANAGEMENT_TOKEN = "management-of-the-tests-" + "0" * 40
PLACES = 20

router = Router()


@router.get("/mine", access="orders:read")
async def mine(caller: Caller) -> str:
    return caller.id


@router.post("/mine", access="orders:write")
async def add_to_mine(caller: Caller, given: dict[str, str]) -> str:
    return f"{caller.id}: {len(given)}"


@router.post("/keyed", access="orders:write")
async def keyed(key: Keyed, given: Annotated[dict[str, str], Body()]) -> str:
    return f"{key.key}: {len(given)}"


@router.get("/open", public=True)
async def open_to_all() -> str:
    return "open"


@router.post("/count", public=True)
async def count(given: dict[str, str]) -> int:
    return len(given)


@router.get("/long", public=True)
async def long() -> str:
    return "x" * 50_000


class Settings(ServiceSettings):
    service_name = "shop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A running API: its application, its ports and what serves them."""

    app: Application
    public: int
    management: int
    servers: Mapping[int, Server]

    def connections(self, port: int) -> set[HttpProtocol]:
        """Those that the server of this port has now."""
        return {one for one in self.servers[port].server_state.connections if isinstance(one, HttpProtocol)}


@asynccontextmanager
async def open_shop(database: Database, database_settings: DatabaseSettings, redis: Redis) -> AsyncIterator[Shop]:
    settings = Settings(
        database=database_settings,
        auth=PEPPERS,
        rate_limit=RateLimitSettings(burst=10_000),
        http=HttpSettings(default_deadline=6, max_body_bytes=1000, max_concurrent_requests=PLACES),
    )

    app = Application(lambda: settings.http, routers=[router])
    limiter = RateLimiter(redis, lambda: settings.rate_limit, service="shop")
    known = await authenticator(database)
    app.resources = ApiResources(
        database=database, health=database, redis=redis, rate_limiter=limiter, authenticator=known, checks={}
    )
    app.health.mark_started()
    management = management_app(app.health, {"service": "shop"}, token=lambda: SecretStr(MANAGEMENT_TOKEN))
    public_server = Server(app, host="127.0.0.1", port=free_port(), drain_timeout=1, trusted_proxies=["127.0.0.0/8"])
    servers = [public_server, Server(management, host="127.0.0.1", port=free_port(), drain_timeout=1)]
    ports = [server.config.port for server in servers]
    async with servers[0].running(), servers[1].running():
        yield Shop(app=app, public=ports[0], management=ports[1], servers=dict(zip(ports, servers, strict=True)))
