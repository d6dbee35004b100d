"""Finished jobs that wait for the worker's next statement, which ends these jobs and claims new ones.

The asyncio task of each job waits as well, so that a job is reported as completed only after its end is committed.
"""

import asyncio
from collections.abc import Container
from typing import Protocol

from chassis.jobs.running_job import RunningJob


class Leased(Protocol):
    """A job with its lease. `lease_until` is a time on the monotonic clock. Each heartbeat sets a later time."""

    @property
    def job(self) -> RunningJob: ...

    @property
    def lease_until(self) -> float: ...


class Completions[Run: Leased]:
    """A worker's jobs whose handlers have returned and whose end is not committed yet."""

    def __init__(self) -> None:
        self._waiting: dict[Run, asyncio.Future[bool]] = {}

    def complete(self, run: Run) -> asyncio.Future[bool]:
        """Let the job wait for the statement that ends it.

        The returned future's result is True if the job's end was committed, and False if the worker had lost the job's
        lease before.
        """
        is_ended = self._waiting[run] = asyncio.get_running_loop().create_future()
        return is_ended

    def take(self) -> dict[Run, asyncio.Future[bool]]:
        """Remove all waiting jobs and return them, so that one statement can end them.

        The caller passes the jobs to `settle` after the statement, or to `put_back` if the statement fails.
        """
        taken, self._waiting = self._waiting, {}
        return taken

    def put_back(self, taken: dict[Run, asyncio.Future[bool]]) -> None:
        """Let these jobs wait again, because the statement that should end them has failed."""
        self._waiting = taken | self._waiting

    def give_up(self, now: float) -> None:
        """Report waiting jobs whose lease has expired as lost, because another worker may run these jobs by now."""
        waiting = self.take()
        self._waiting = {run: is_ended for run, is_ended in waiting.items() if now < run.lease_until}
        for run in waiting.keys() - self._waiting.keys():
            _settle(waiting[run], is_ours=False)


def settle[Run: Leased](taken: dict[Run, asyncio.Future[bool]], *, lost: Container[tuple[int, int]]) -> None:
    """Report the result of the statement to the jobs' tasks. `lost` contains the fencing token (id and attempt) of each
    job whose lease the worker had lost.
    """
    for run, is_ended in taken.items():
        _settle(is_ended, is_ours=(run.job.id, run.job.attempt) not in lost)


def _settle(is_ended: asyncio.Future[bool], *, is_ours: bool) -> None:
    if not is_ended.done():  # the future is done if the waiting task was cancelled
        is_ended.set_result(is_ours)
