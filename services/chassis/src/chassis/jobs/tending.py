"""The maintenance that every worker does: make jobs with an expired lease ready again, and take samples of a queue.

A sample measures the state of the queue with one statement (`sample` in `jobs.sql`).
"""

import math
import time
from typing import NamedTuple

import asyncpg
from prometheus_client import Counter, Gauge

from chassis.jobs.lookback import Lookback
from chassis.jobs.metrics import processed
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.logging import get_logger
from chassis.pooling import Database

log = get_logger(__name__)

depth = Gauge("job_queue_depth", "Jobs that are due and wait for a worker.", ["queue"])
oldest_age_seconds = Gauge("job_queue_oldest_age_seconds", "Seconds that the oldest due job has waited.", ["queue"])
drain_seconds = Gauge(
    "job_queue_drain_seconds",
    "Seconds until the queue is empty if it shrinks at the present rate; +Inf if it does not shrink.",
    ["queue"],
)
dead_letters = Gauge("job_dead_letters", "Jobs that no worker runs again unless an operator replays them.", ["queue"])
leases_expired = Counter("job_leases_expired", "Jobs whose worker did not extend the lease in time.", ["queue", "job"])

COUNTED_JOBS = 100_000
"""The depth of the queue is counted up to this number, by an index scan of 20 ms. A higher count would change nothing,
since a deeper queue raises the same alert."""
MEMORY_SECONDS = 30.0
"""The time in seconds over which the rate at which a queue shrinks is smoothed. This time spans several samples
(measurements of the queue), so that one batch of jobs hardly changes the rate."""

SET_BACK_SECONDS = 30.0
"""The seconds between two searches for jobs whose times were written before the clock was set back. A job waits no
longer than this until its times are corrected."""

LOOK_SHARE = 0.05
"""The share of a worker's time that it may spend on samples, which measure the queue. A sample reads the index entries
of all jobs that have run since the last vacuum, at 0.4 µs each. If an open transaction prevents vacuum while half a
million jobs run, a sample takes 0.2 s."""


class DrainEstimate:
    """Estimates the seconds until a queue is empty: the number of jobs divided by the rate at which the queue shrinks.

    The rate (service rate μ − arrival rate λ) is smoothed over `MEMORY_SECONDS`.
    """

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._shrinks_by = 0.0

    def update(self, jobs: int, *, now: float) -> float:
        """The estimate after a sample has counted the due `jobs`: 0 for an empty queue, infinite if the queue does not
        shrink.
        """
        if self._last is not None and now > self._last[0]:
            seconds = now - self._last[0]
            weight = 1 - math.exp(-seconds / MEMORY_SECONDS)
            self._shrinks_by += weight * ((self._last[1] - jobs) / seconds - self._shrinks_by)
        self._last = (now, jobs)
        if jobs == 0:
            return 0.0
        return jobs / self._shrinks_by if self._shrinks_by > 0 else math.inf


class SuspectsDue(NamedTuple):
    """Whether suspects (jobs whose lease expired) are due.

    `beside_others`: suspects that may run beside other jobs. `alone`: suspects that must run alone in the process.
    """

    beside_others: bool
    alone: bool


class Tending:
    """Makes jobs with an expired lease ready again, in every queue, and takes samples of `queue`."""

    def __init__(self, database: Database, *, queue: str, lease: float) -> None:
        self._database = database
        self._queue = queue
        self._lease = lease
        self.lookback = Lookback()
        self._estimate = DrainEstimate()
        self._reaps_from = self._sets_back_from = -math.inf
        self._look_seconds = 0.0

    @property
    def pause(self) -> float:
        """Seconds until the next maintenance: a fifth of the lease, or longer if the last sample (the measurement of
        the queue) was slow, but at most a lease.

        A job that is due for longer than claims look back waits at most this long, until a sample finds it
        (`lookback.py`).
        """
        return min(max(self._lease / 5, self._look_seconds / LOOK_SHARE), self._lease)

    async def tend(self) -> SuspectsDue:
        """Do the maintenance once. Returns which kinds of suspects (jobs whose lease expired) are due in the queue."""
        async with self._database.driver() as connection:
            sample = await self._tend(connection, time.monotonic())
        depth.labels(self._queue).set(sample["depth"])
        oldest_age_seconds.labels(self._queue).set(sample["oldest_age"])
        drain_seconds.labels(self._queue).set(self._estimate.update(sample["depth"], now=time.monotonic()))
        dead_letters.labels(self._queue).set(sample["dead_letters"])
        return SuspectsDue(beside_others=sample["has_suspects"], alone=sample["has_lone"])

    def note_outage(self) -> None:
        """Note an outage of the database: for the length of one lease, no job with an expired lease is made ready.

        In an outage, no worker can extend its leases, so all leases expire. After the outage, the workers that are
        alive need this time to extend their leases or to hand their jobs back.
        """
        self._reaps_from = time.monotonic() + self._lease

    async def _tend(self, connection: asyncpg.Connection, now: float) -> asyncpg.Record:
        if now >= self._sets_back_from:
            await self._set_back(connection)
            self._sets_back_from = now + SET_BACK_SECONDS
        if now >= self._reaps_from:
            await self._reap(connection)
        began = time.monotonic()
        (sample,) = await DRIVER_STATEMENTS["sample"].fetch(connection, queue=self._queue, limit=COUNTED_JOBS)
        self._look_seconds = time.monotonic() - began
        self.lookback.note_full_look(sample["oldest_other_age"] or 0.0, began=began)
        return sample

    async def _set_back(self, connection: asyncpg.Connection) -> None:
        if ahead := await DRIVER_STATEMENTS["set_back"].fetch(connection, queue=self._queue):
            log.warning("job_times_set_back", queue=self._queue, jobs=len(ahead))

    async def _reap(self, connection: asyncpg.Connection) -> None:
        for row in await DRIVER_STATEMENTS["reap"].fetch(connection):
            leases_expired.labels(row["queue"], row["name"]).inc()
            is_dead = row["status"] == "dead"
            if is_dead:
                processed.labels(row["queue"], row["name"], "dead").inc()
            write = log.error if is_dead else log.warning
            write("job_lease_expired", job=row["name"], job_id=row["id"], attempt=row["attempt"], status=row["status"])
