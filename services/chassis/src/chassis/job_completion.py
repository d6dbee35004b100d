"""Finished jobs end in batches: one statement and one commit for all that finished while the last batch was under way.

A handler's task waits here until the end of its job is committed, so that nothing is reported as done which is not.
"""

import asyncio
import math
import time
from typing import Protocol

import asyncpg

from chassis.jobs import DRIVER_STATEMENTS, RunningJob
from chassis.logging import get_logger
from chassis.pooling import Database
from chassis.wakeup import BUGS, HOLD_SECONDS, OUTAGES, is_set_within

log = get_logger(__name__)

RETRY_SECONDS = 0.2
"""Between two tries while the database is away: many within a lease, which is how long it is worth trying."""


class Leased(Protocol):
    """A job with its lease, which the heartbeat extends: `lease_until` is on the monotonic clock."""

    @property
    def job(self) -> RunningJob: ...

    @property
    def lease_until(self) -> float: ...


type _Ending = tuple[Leased, asyncio.Future[bool]]


class Completions:
    """Commits the end of jobs. `run` does the work, as a task beside the handlers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Ending] = []
        self._has_work = asyncio.Event()

    def complete(self, run: Leased) -> asyncio.Future[bool]:
        """To be awaited: whether the job was still ours when its end was committed."""
        is_ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((run, is_ended))
        self._has_work.set()
        return is_ended

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

    async def _commit(self, connection: asyncpg.Connection, batch: list[_Ending]) -> None:
        self._waiting = []
        try:
            rows = await DRIVER_STATEMENTS["complete_all"].fetch(
                connection, ids=[run.job.id for run, _ in batch], attempts=[run.job.attempt for run, _ in batch]
            )
        except BaseException:
            self._waiting = batch + self._waiting
            raise
        ended = {(row["id"], row["attempt"]) for row in rows}
        for run, is_ended in batch:
            _tell(is_ended, answer=(run.job.id, run.job.attempt) in ended)

    def _give_up(self, now: float) -> None:
        """Those whose lease has run out meanwhile: somebody else may run them by now."""
        for run, is_ended in self._waiting:
            if now >= run.lease_until:
                _tell(is_ended, answer=False)
        self._waiting = [(run, is_ended) for run, is_ended in self._waiting if now < run.lease_until]


def _tell(is_ended: asyncio.Future[bool], *, answer: bool) -> None:
    if not is_ended.done():  # the task that waits may have been cancelled
        is_ended.set_result(answer)
