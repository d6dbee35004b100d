"""What every worker does for all: takes jobs from workers that went silent, and measures its queue."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import asyncpg
from prometheus_client import Counter, Gauge

from chassis.jobs import DRIVER_STATEMENTS
from chassis.logging import get_logger
from chassis.pooling import Database

log = get_logger(__name__)

depth = Gauge("job_queue_depth", "Jobs that are due and wait for a worker.", ["queue"])
oldest_age_seconds = Gauge("job_queue_oldest_age_seconds", "How long the oldest due job has waited.", ["queue"])
drain_seconds = Gauge(
    "job_queue_drain_seconds",
    "When the queue will be empty at the rate it shrinks now; +Inf while it does not.",
    ["queue"],
)
dead_letters = Gauge("job_dead_letters", "Jobs that nobody will run again by itself.", ["queue"])
leases_expired = Counter("job_leases_expired", "Jobs taken from a worker that went silent.", ["queue", "job"])

COUNTED_JOBS = 100_000
"""The depth is not counted beyond it: an index scan of 20 ms; and a deeper queue is as much an alarm."""
MEMORY_SECONDS = 30.0
"""How long a change of the rate takes to show: a few measurements, so that one batch does not make a trend."""

SET_BACK_SECONDS = 30.0
"""Between two looks for times that a clock wrote before it was set back: how long a job can wait for that."""


class DrainEstimate:
    """Seconds until a queue is empty: backlog ÷ (μ − λ), the rate it shrinks at, smoothed over `MEMORY_SECONDS`."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._shrinks_by = 0.0

    def update(self, jobs: int, *, now: float) -> float:
        """The estimate after a measurement; 0 when empty, infinite while it does not shrink."""
        if self._last is not None and now > self._last[0]:
            seconds = now - self._last[0]
            weight = 1 - math.exp(-seconds / MEMORY_SECONDS)
            self._shrinks_by += weight * ((self._last[1] - jobs) / seconds - self._shrinks_by)
        self._last = (now, jobs)
        if jobs == 0:
            return 0.0
        return jobs / self._shrinks_by if self._shrinks_by > 0 else math.inf


class SuspectsDue(NamedTuple):
    """Whether suspects are due in a queue: some that run beside other jobs, some that run alone."""

    beside_others: bool
    alone: bool


class Tending:
    """Reaps and measures for a worker of `queue`, whose leases have `lease` seconds.

    `on_dead` counts a job that died without its worker.
    """

    def __init__(self, database: Database, *, queue: str, lease: float, on_dead: Callable[[str, str], None]) -> None:
        self._database = database
        self._queue = queue
        self._lease = lease
        self._on_dead = on_dead
        self._estimate = DrainEstimate()
        self._reaps_from = self._sets_back_from = -math.inf

    async def tend(self) -> SuspectsDue:
        """Once; which suspects are due in the queue."""
        async with self._database.driver() as connection:
            sample = await self._tend(connection, time.monotonic())
        depth.labels(self._queue).set(sample["depth"])
        oldest_age_seconds.labels(self._queue).set(sample["oldest_age"])
        drain_seconds.labels(self._queue).set(self._estimate.update(sample["depth"], now=time.monotonic()))
        dead_letters.labels(self._queue).set(sample["dead_letters"])
        return SuspectsDue(beside_others=sample["has_suspects"], alone=sample["has_lone"])

    def note_outage(self) -> None:
        """Take no job from another worker for the time of a lease. In an outage all leases run out; once it is over,
        the workers that are alive extend them, or hand their jobs back.
        """
        self._reaps_from = time.monotonic() + self._lease

    async def _tend(self, connection: asyncpg.Connection, now: float) -> asyncpg.Record:
        if now >= self._sets_back_from:
            await self._set_back(connection)
            self._sets_back_from = now + SET_BACK_SECONDS
        if now >= self._reaps_from:
            await self._reap(connection)
        (sample,) = await DRIVER_STATEMENTS["sample"].fetch(connection, queue=self._queue, limit=COUNTED_JOBS)
        return sample

    async def _set_back(self, connection: asyncpg.Connection) -> None:
        if ahead := await DRIVER_STATEMENTS["set_back"].fetch(connection, queue=self._queue):
            log.warning("job_times_set_back", queue=self._queue, jobs=len(ahead))

    async def _reap(self, connection: asyncpg.Connection) -> None:
        for row in await DRIVER_STATEMENTS["reap"].fetch(connection):
            leases_expired.labels(row["queue"], row["name"]).inc()
            is_dead = row["status"] == "dead"
            if is_dead:
                self._on_dead(row["queue"], row["name"])
            write = log.error if is_dead else log.warning
            write("job_lease_expired", job=row["name"], job_id=row["id"], attempt=row["attempt"], status=row["status"])
