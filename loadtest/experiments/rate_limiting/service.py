"""The API of the rate-limiting experiment: a little work in PostgreSQL per request, and one of three limiters."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from chassis.app.api import ApiResources, Router, opened
from chassis.app.api.limits import limits_of, spend
from chassis.config import Live
from chassis.config.settings import Group, ServiceSettings
from chassis.errors import RateLimited
from chassis.pooling import Database, create_redis
from chassis.rate_limiting import default_policy
from chassis.retries import deadlines
from fastapi import Depends, Request
from sqlalchemy import text

from experiments.lab.service import serve
from experiments.rate_limiting.algorithms import FixedWindow


class ServerSettings(Group):
    limiter: Literal["none", "fixed window", "GCRA"] = "none"
    slots: int = 4
    work_seconds: float = 0.16
    fixed_limit: int = 20
    fixed_window: float = 10.0


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "lab"
    server: ServerSettings = ServerSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    database: Database
    settings: ServerSettings
    slots: asyncio.Semaphore
    fixed: FixedWindow


router = Router()
Given = Annotated[Resources, Depends(opened(Resources))]


async def limited(tenant: str, request: Request, given: Given) -> None:
    match given.settings.limiter:
        case "fixed window":
            if not await given.fixed.allows(tenant):
                raise RateLimited(retry_after=given.settings.fixed_window)
        case "GCRA":
            await spend(request, f"tenant:{tenant}", default_policy(limits_of(request), tier="standard"))
        case _:
            pass


@router.get("/work/{tenant}", public=True, dependencies=[Depends(limited)])
async def work(given: Given) -> None:
    async with given.slots:
        deadlines.check("working")
        async with given.database.read() as session:
            await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": given.settings.work_seconds})


@asynccontextmanager
async def open_resources(live: Live[Settings], base: ApiResources) -> AsyncIterator[Resources]:
    server = live.current.server
    # The client people really use: no time-out of ours, no plan for its absence.
    redis = create_redis(live.current.redis, timeout=5, pool="naive")
    yield Resources(
        database=base.database,
        settings=server,
        slots=asyncio.Semaphore(server.slots),
        fixed=FixedWindow(redis, limit=server.fixed_limit, window=server.fixed_window),
    )
    await redis.aclose()


if __name__ == "__main__":
    serve(Settings, [router], open_resources)
