"""Two transactions that overlap in a known order, on real locks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from chassis.pooling import Database, Session
from harness import one
from waiting import eventually

type Work[T] = Callable[[Session], Awaitable[T]]

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
            await waits_or_is_done(database, follower)
            return result

    async def follow() -> B:
        await has_written.wait()
        async with database.transaction() as session:
            return await second(session)

    follower = asyncio.create_task(follow())
    results = await asyncio.gather(begin(), follower)
    return results[0], results[1]


async def waits_or_is_done(database: Database, task: asyncio.Task[Any]) -> None:
    """Return once the task waits for another transaction's lock, or has not had to."""

    async def look() -> bool:
        return task.done() or bool((await one(database, _IS_WAITING)).answer)

    await eventually(look)
