"""A dependency of the breaker experiment, as two processes: the healthy one is asked to read, the sick one to hang."""

import asyncio
from collections import Counter
from time import monotonic
from typing import Annotated, ClassVar

from chassis.app.api import ApiResources, Router, opened
from chassis.config.settings import ServiceSettings
from fastapi import Depends
from sqlalchemy import text

from experiments.lab.service import serve


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "lab"


class Fault:
    """Until when the sick one hangs, and how many calls of each arm have reached it."""

    until = 0.0
    calls: ClassVar[Counter[str]] = Counter()


router = Router()


@router.get("/sick/{arm}", public=True)
async def sick(arm: str) -> None:
    Fault.calls[arm] += 1
    await asyncio.sleep(max(0.0, Fault.until - monotonic()))


@router.get("/healthy", public=True)
async def healthy(given: Annotated[ApiResources, Depends(opened(ApiResources))]) -> None:
    async with given.database.read() as session:
        await session.execute(text("SELECT pg_sleep(0.01)"))


@router.put("/hang/{seconds}", public=True)
async def hang(seconds: float) -> None:
    Fault.until = monotonic() + seconds


@router.get("/calls", public=True)
async def calls() -> dict[str, int]:
    return Fault.calls


if __name__ == "__main__":
    serve(Settings, [router])
