"""The leases of a worker's jobs. A heartbeat extends the leases, and a worker that stops hands its jobs back."""

import time
from collections.abc import Iterable, Sequence

import asyncpg

from chassis.jobs.runs import Run, tokens
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.logging import get_logger
from chassis.pooling import Database, is_transient

log = get_logger(__name__)


class Leases:
    """Extends the leases of `runs`: the jobs that this worker has claimed. A lease lasts `lease` seconds."""

    def __init__(self, database: Database, *, queue: str, lease: float) -> None:
        self._database = database
        self._queue = queue
        self._lease = lease
        self.runs: set[Run] = set()
        self.lost: set[Run] = set()
        """Runs that lost their lease before the job's end was committed. The next heartbeat hands their jobs back,
        unless another worker has claimed them."""

    async def extend(self) -> None:
        """One heartbeat: extend every lease, and end the handlers of jobs that another worker may own by now."""
        runs, lost, lease_until = tuple(self.runs), tuple(self.lost), time.monotonic() + self._lease
        if not runs and not lost:
            return
        try:
            held = await self._extend(runs, handing_back=lost)
        except Exception as error:
            if is_transient(error):
                _end_expired(runs, time.monotonic())
            raise
        self.lost.difference_update(lost)
        for run in runs:
            if (run.job.id, run.job.attempt) in held:
                run.lease_until = lease_until
            else:
                run.end("lease_lost")

    async def _extend(self, runs: Sequence[Run], *, handing_back: Sequence[Run]) -> set[tuple[int, int]]:
        """Hand back lost jobs, extend the leases of `runs`, and return the fencing tokens that are still valid."""
        async with self._database.driver() as connection:
            if handing_back:
                await _hand_back(connection, handing_back)
            rows = await DRIVER_STATEMENTS["heartbeat"].fetch(connection, **tokens(runs), lease=self._lease)
        return {(row["id"], row["attempt"]) for row in rows}

    async def hand_back(self, runs: Sequence[Run]) -> None:
        """Make these jobs ready again, so that another worker can claim them at once."""
        async with self._database.driver() as connection:
            job_ids = await _hand_back(connection, runs)
        log.warning("jobs_handed_back", queue=self._queue, job_ids=job_ids)


async def _hand_back(connection: asyncpg.Connection, runs: Iterable[Run]) -> list[int]:
    return [row["id"] for row in await DRIVER_STATEMENTS["hand_back"].fetch(connection, **tokens(runs))]


def _end_expired(runs: Iterable[Run], now: float) -> None:
    """End handlers whose lease has expired by this process's clock: another worker may run their jobs by now."""
    for run in runs:
        if now >= run.lease_until:
            run.end("lease_lost")
