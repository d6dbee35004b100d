"""The server of the retries experiment: `slots` connections to PostgreSQL, and a queue before them without an end.

Its capacity is slots ÷ seconds of work. Whoever waits longer than his caller does is served all the same, as in most
servers, unless `drops_expired`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Annotated, ClassVar

from chassis.app.api import ApiResources, Router, opened
from chassis.config import Live
from chassis.config.settings import Group, ServiceSettings
from chassis.pooling import Database
from chassis.retries import deadlines
from fastapi import Depends
from sqlalchemy import text

from experiments.lab.service import serve


class ServerSettings(Group):
    slots: int = 10
    work_seconds: float = 0.1
    drops_expired: bool = False


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "lab"
    server: ServerSettings = ServerSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    database: Database
    settings: ServerSettings
    slots: asyncio.Semaphore
    now: dict[str, float]
    """`work_seconds` at this moment; `worked` and `held` count the units of work and the seconds they took."""


router = Router()
Given = Annotated[Resources, Depends(opened(Resources))]


@router.get("/work", public=True)
async def work(given: Given) -> None:
    async with given.slots:
        if given.settings.drops_expired:
            deadlines.check("working")
        began = monotonic()
        async with given.database.read() as session:
            await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": given.now["work_seconds"]})
        given.now["worked"] += 1
        given.now["held"] += monotonic() - began


@router.put("/work-seconds/{seconds}", public=True)
async def change(seconds: float, given: Given) -> None:
    given.now["work_seconds"] = seconds


@router.get("/counts", public=True)
async def counts(given: Given) -> dict[str, float]:
    return given.now


@asynccontextmanager
async def open_resources(live: Live[Settings], base: ApiResources) -> AsyncIterator[Resources]:
    server = live.current.server
    yield Resources(
        database=base.database,
        settings=server,
        slots=asyncio.Semaphore(server.slots),
        now={"work_seconds": server.work_seconds, "worked": 0, "held": 0.0},
    )


if __name__ == "__main__":
    serve(Settings, [router], open_resources)
