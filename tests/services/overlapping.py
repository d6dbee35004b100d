"""Two transactions that overlap in a known order, on real locks."""

import asyncio
from collections.abc import Awaitable, Callable

from chassis.pooling import Database
from harness import one
from sqlalchemy.ext.asyncio import AsyncSession
from waiting import eventually

type Work[T] = Callable[[AsyncSession], Awaitable[T]]

_IS_WAITING = """
SELECT EXISTS (
    SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
) AS answer
"""


async def overlapping[A, B](database: Database, first: Work[A], second: Work[B]) -> tuple[A, B]:
    """Do both, each in a transaction: the first commits once the second waits for it, or is done without waiting."""
    has_written = asyncio.Event()

    async def begin() -> A:
        async with database.transaction() as session:
            result = await first(session)
            has_written.set()
            await eventually(is_waiting_or_done)
            return result

    async def follow() -> B:
        await has_written.wait()
        async with database.transaction() as session:
            return await second(session)

    async def is_waiting_or_done() -> bool:
        return follower.done() or bool((await one(database, _IS_WAITING)).answer)

    follower = asyncio.create_task(follow())
    results = await asyncio.gather(begin(), follower)
    return results[0], results[1]
