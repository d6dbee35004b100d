"""A bounded backlog: above its limit, an API refuses new work and answers when the caller may try again.

An unbounded queue accepts work that it can only do late. Counting rows for each request would cost too much, so one
request a second counts them, up to the limit, and the other requests use that number.
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
"""After the limit was reached, work is accepted again below this share of it. The gap keeps the answer from changing
with every job."""
MEASURE_SECONDS = 1.0
"""The time between two counts. At 200 orders a second, orders worth 2 % of the limit may arrive meanwhile."""
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 60.0
"""Bounds of the answered time: the number hardly changes sooner, and an estimate beyond a minute is a guess."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """A count of `jobs` at `at` (seconds, monotonic). `shrinks_by` is in jobs a second."""

    jobs: int
    at: float
    is_full: bool
    shrinks_by: float = 0.0

    def then(self, jobs: int, *, at: float, limit: int) -> "Backlog":
        """The backlog after another count: full from `limit` on, and until it is below `RESUME_SHARE` of it. Pure."""
        threshold = RESUME_SHARE * limit if self.is_full else limit
        return Backlog(jobs, at, jobs >= threshold, (self.jobs - jobs) / max(at - self.at, MEASURE_SECONDS))

    def retry_after(self, limit: int) -> float:
        """Seconds until work is accepted again, if the backlog goes on shrinking at this rate."""
        excess = self.jobs - RESUME_SHARE * limit
        seconds = excess / self.shrinks_by if self.shrinks_by > 0 else math.inf
        return min(max(seconds, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)


class BacklogLimit:
    """Limits the backlog of one queue, in a process that enqueues jobs. `clock` is monotonic, in seconds."""

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
        """Return if the queue takes more work. Otherwise raise `ApiError` OVERLOADED with its `retry_after`."""
        if self._clock() - self._found.at >= MEASURE_SECONDS and not self._is_counting:
            await self._count()
        if self._found.is_full:
            refused.labels(self._queue).inc()
            raise ApiError(
                ErrorCode.OVERLOADED,
                "More work waits than can be done soon. The request was not accepted.",
                retry_after=self._found.retry_after(self._limit),
            )

    async def _count(self) -> None:
        self._is_counting = True  # concurrent requests use the last count rather than wait
        try:
            async with self._database.read() as session:
                jobs = int(
                    await session.scalar(STATEMENTS["backlog"], {"queue": self._queue, "limit": self._limit}) or 0
                )
        finally:
            self._is_counting = False
        self._found = self._found.then(jobs, at=self._clock(), limit=self._limit)
        backlog_jobs.labels(self._queue).set(jobs)
