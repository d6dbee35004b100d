"""Bounds the backlog of jobs: while too many jobs wait, an API refuses new work with a Retry-After.

A queue without a limit accepts more work than its workers can do in time. A count of the waiting jobs in each request
would cost too much. So one request a second counts the waiting jobs up to the limit, and the other requests use this
count.
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

backlog_jobs = Gauge("job_backlog", "Waiting jobs, including delayed ones, counted up to the limit.", ["queue"])
refused = Counter("job_backlog_refused", "Requests refused because too many jobs wait.", ["queue"])

RESUME_SHARE = 0.8
"""After the backlog has reached the limit, work is accepted again when the backlog is below this share of the limit.
Without the gap between this share and the limit, a full queue would accept one request and refuse the next."""
MEASURE_SECONDS = 1.0
"""The time between two counts. At 200 orders a second, the backlog grows between two counts by up to 2 % of the default
limit."""
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 60.0
"""The shortest and the longest Retry-After. Within 5 seconds the backlog hardly changes, and an estimate of more than a
minute is unreliable."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The number of waiting `jobs` that a count found at the time `at` (monotonic, in seconds).

    Between the previous count and this count, the backlog shrank by `shrinks_by` jobs a second.
    """

    jobs: int
    at: float
    is_full: bool
    shrinks_by: float = 0.0

    def then(self, jobs: int, *, at: float, limit: int) -> "Backlog":
        """The backlog after another count, `jobs`.

        The backlog becomes full at `limit`, and stays full until it is below `RESUME_SHARE` of `limit`.
        """
        threshold = RESUME_SHARE * limit if self.is_full else limit
        return Backlog(jobs, at, jobs >= threshold, (self.jobs - jobs) / max(at - self.at, MEASURE_SECONDS))

    def retry_after(self, limit: int) -> float:
        """Seconds until work is accepted again, if the backlog continues to shrink by `shrinks_by` jobs a second."""
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
        """Return if the queue accepts more work. Otherwise raise `ApiError` (OVERLOADED) with a `retry_after`."""
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
        self._is_counting = True  # until this count ends, other requests use the previous count
        try:
            async with self._database.read() as session:
                jobs = int(
                    await session.scalar(STATEMENTS["backlog"], {"queue": self._queue, "limit": self._limit}) or 0
                )
        finally:
            self._is_counting = False
        self._found = self._found.then(jobs, at=self._clock(), limit=self._limit)
        backlog_jobs.labels(self._queue).set(jobs)
