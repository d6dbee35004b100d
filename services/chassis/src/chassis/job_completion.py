"""Finished jobs end in batches: one statement and one commit for all that finished while the last batch was under way.

A handler's task waits here until the end of its job is committed, so that nothing is reported as done which is not.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from chassis.jobs import DRIVER_STATEMENTS
from chassis.logging import get_logger
from chassis.pooling import Database
from chassis.wakeup import BUGS, HOLD_SECONDS, OUTAGES, is_set_within

log = get_logger(__name__)

RETRY_SECONDS = 0.2
"""Between two tries while the database is away: many within a lease, which is how long it is worth trying."""


@dataclass(eq=False, slots=True)
class _Finished:
    id: int
    attempt: int
    lease_until: Callable[[], float]
    is_ended: asyncio.Future[bool]

    def tell(self, *, is_ended: bool) -> None:
        if not self.is_ended.done():  # the task that waits may have been cancelled
            self.is_ended.set_result(is_ended)


class Completions:
    """Commits the end of jobs. `run` does the work, as a task beside the handlers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Finished] = []
        self._has_work = asyncio.Event()

    async def complete(self, job_id: int, attempt: int, *, lease_until: Callable[[], float]) -> bool:
        """Whether the job was still ours when its end was committed; `lease_until()` is on the monotonic clock."""
        is_ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Finished(job_id, attempt, lease_until, is_ended))
        self._has_work.set()
        return await is_ended

    async def run(self) -> None:
        """Work until cancelled. What waits then has not ended: it is handed back, or its lease runs out."""
        try:
            while True:
                await self._has_work.wait()
                await self._commit_or_wait()
        finally:
            self._give_up(math.inf)

    async def _commit_or_wait(self) -> None:
        try:
            await self._commit_all()
        except BUGS:
            raise
        except OUTAGES as error:
            log.warning("job_completions_failed", error=type(error).__name__, jobs=len(self._waiting))
            self._give_up(time.monotonic())
            self._has_work.set()
            await asyncio.sleep(RETRY_SECONDS)

    async def _commit_all(self) -> None:
        async with self._database.driver() as connection:
            is_busy = True
            while is_busy:
                self._has_work.clear()
                while self._waiting:
                    await self._commit(connection, self._waiting)
                is_busy = await is_set_within(self._has_work, HOLD_SECONDS)

    async def _commit(self, connection: asyncpg.Connection, batch: list[_Finished]) -> None:
        self._waiting = []
        try:
            rows = await DRIVER_STATEMENTS["complete_all"].fetch(
                connection, ids=[job.id for job in batch], attempts=[job.attempt for job in batch]
            )
        except BaseException:
            self._waiting = batch + self._waiting
            raise
        ended = {row["id"] for row in rows}
        for job in batch:
            job.tell(is_ended=job.id in ended)

    def _give_up(self, now: float) -> None:
        """Those whose lease has run out meanwhile: somebody else may run them by now."""
        for job in self._waiting:
            if now >= job.lease_until():
                job.tell(is_ended=False)
        self._waiting = [job for job in self._waiting if now < job.lease_until()]
