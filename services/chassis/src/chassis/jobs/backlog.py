"""A bounded backlog: past its limit, work is refused before it is accepted, and the caller is told when to come back.

A queue that grows without end turns every promise into a late one. Requests do not count rows: one of them does so now
and then, up to the limit, and all others use what it found.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from chassis.config.settings import JobSettings
from chassis.errors import ApiError, ErrorCode
from chassis.jobs.statements import STATEMENTS
from chassis.pooling import Database

backlog_jobs = Gauge("job_backlog", "Jobs that wait, delayed ones included, counted up to the limit.", ["queue"])
refused = Counter("job_backlog_refused", "Requests refused because too many jobs wait.", ["queue"])

RESUME_SHARE = 0.8
"""Of the limit, below which work is accepted again: so far apart that the answer does not change with every job."""
MEASURE_SECONDS = 1.0
"""Between two counts. At 200 orders a second, 2 % of the limit may come in meanwhile."""
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 60.0
"""Sooner nothing has changed; and a guess about more than a minute is none."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What was found at `at` (seconds, monotonic), whether it is too much, and by how many a second it shrinks."""

    jobs: int
    at: float
    is_full: bool
    shrinks_by: float = 0.0

    def then(self, jobs: int, *, at: float, limit: int) -> "Backlog":
        """After another count. Pure: full from `limit` on, and until it is below `RESUME_SHARE` of it."""
        threshold = RESUME_SHARE * limit if self.is_full else limit
        return Backlog(jobs, at, jobs >= threshold, (self.jobs - jobs) / max(at - self.at, MEASURE_SECONDS))

    def retry_after(self, limit: int) -> float:
        """Seconds until work is accepted again, if it goes on shrinking like this."""
        excess = self.jobs - RESUME_SHARE * limit
        seconds = excess / self.shrinks_by if self.shrinks_by > 0 else math.inf
        return min(max(seconds, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)


class BacklogLimit:
    """Guards one queue, in the process that adds to it. `clock` is monotonic, in seconds."""

    def __init__(
        self, database: Database, settings: JobSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._queue = settings.queue
        self._limit = settings.backlog_limit
        self._clock = clock
        self._found = Backlog(0, -math.inf, is_full=False)
        self._is_counting = False

    async def check(self) -> None:
        """Return when there is room for more work; raise `ApiError` OVERLOADED with its `retry_after` when not."""
        if self._clock() - self._found.at >= MEASURE_SECONDS and not self._is_counting:
            await self._count()
        if self._found.is_full:
            refused.labels(self._queue).inc()
            raise ApiError(
                ErrorCode.OVERLOADED,
                "More work waits than can be done soon: nothing was accepted.",
                retry_after=self._found.retry_after(self._limit),
            )

    async def _count(self) -> None:
        self._is_counting = True  # the requests beside this one do not wait for it
        try:
            async with self._database.read() as session:
                jobs = int(
                    await session.scalar(STATEMENTS["backlog"], {"queue": self._queue, "limit": self._limit}) or 0
                )
        finally:
            self._is_counting = False
        self._found = self._found.then(jobs, at=self._clock(), limit=self._limit)
        backlog_jobs.labels(self._queue).set(jobs)
