"""Schedules: work that recurs, by one process at a time.

A schedule looks at state and not at a calendar: sweeps find open orders without a job, orders past their limit,
payments that nobody reported. A run that was missed is therefore not made up for; the next one finds the same state.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from prometheus_client import Counter
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.logging import bind, get_logger
from chassis.pooling import Database
from chassis.wakeup import DATABASE_ERRORS, wait_or_poll

log = get_logger(__name__)

runs = Counter(
    "schedule_runs", "Runs by outcome: done, elsewhere (another process has it), failed.", ["schedule", "outcome"]
)

_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended('chassis.schedule:' || :name, 0))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`run(session)` about every `every` seconds, in a transaction of its own: it writes, and calls nobody."""

    name: str
    every: float
    run: Callable[[AsyncSession], Awaitable[None]]


class Scheduler:
    """Runs schedules in a worker. Of several workers, one at a time runs each: the holder of its advisory lock."""

    def __init__(
        self, database: Database, schedules: Sequence[Schedule], *, chance: Callable[[], float] = random.random
    ) -> None:
        self._database = database
        self._schedules = schedules
        self._chance = chance

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set; a run under way is finished."""
        async with asyncio.TaskGroup() as tasks:
            for schedule in self._schedules:
                tasks.create_task(self._repeat(schedule, stopping), name=f"schedule-{schedule.name}")

    async def _repeat(self, schedule: Schedule, stopping: asyncio.Event) -> None:
        # Spread, so that workers that start together do not sweep together.
        await wait_or_poll(stopping, interval=schedule.every * self._chance())
        while not stopping.is_set():
            runs.labels(schedule.name, await self._run_once(schedule)).inc()
            await wait_or_poll(stopping, interval=schedule.every)

    async def _run_once(self, schedule: Schedule) -> str:
        try:
            async with self._database.transaction() as session:
                if not await session.scalar(_LOCK, {"name": schedule.name}):
                    return "elsewhere"
                with bind(schedule=schedule.name):
                    await schedule.run(session)
        except ProgrammingError:
            raise
        except DATABASE_ERRORS as error:
            log.warning("schedule_failed", schedule=schedule.name, error=type(error).__name__)
            return "failed"
        return "done"
