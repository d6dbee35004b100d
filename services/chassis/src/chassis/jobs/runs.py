"""The jobs that this process has claimed and not ended yet."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import asyncpg

from chassis.jobs.running_job import RunningJob

type Ending = Literal["lease_lost", "handed_back"]


@dataclass(eq=False, slots=True, kw_only=True)
class Run:
    """A claimed job with its lease and the task that runs its handler.

    `lease_until` is a time on the monotonic clock. The worker computes this time before it requests the lease, so the
    time is never later than the end of the lease in the database. `claimed_at` is on the same clock.
    """

    job: RunningJob
    row: asyncpg.Record
    lease_until: float
    claimed_at: float
    task: asyncio.Task[None] | None = None
    ended_by: Ending | None = None

    def end(self, reason: Ending) -> None:
        """Cancel the handler, unless it was cancelled before.

        A handler that is committing the job's end is not cancelled, because the statement that ends the job checks the
        fencing token in the database.
        """
        if self.task is not None and self.ended_by is None and not self.job.is_finishing:
            self.ended_by = reason
            self.task.cancel()

    def give_up(self) -> None:
        """Cancel a cancelled handler again, because a process that stops does not wait for the handler's clean-up."""
        if self.task is not None and self.ended_by is not None:
            self.task.cancel()


def tokens(runs: Iterable[Run]) -> dict[str, object]:
    """The fencing tokens of these jobs, as parameters of a statement."""
    jobs = [run.job for run in runs]
    return {"ids": [job.id for job in jobs], "attempts": [job.attempt for job in jobs]}
