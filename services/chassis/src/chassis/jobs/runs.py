"""The jobs that a worker has claimed and not ended: their leases, their time limits, and what ends their handlers."""

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import asyncpg

from chassis.jobs import RunningJob

type Ending = Literal["lease_lost", "handed_back", "timed_out"]


@dataclass(eq=False, slots=True, kw_only=True)
class Run:
    """A claimed job in this process. `lease_until` is on the monotonic clock, from before the lease was asked for.

    `overdue_at` is on the event loop's clock: when its time limit is over, while its handler is at work.
    """

    job: RunningJob
    row: asyncpg.Record
    lease_until: float
    overdue_at: float = math.inf
    task: asyncio.Task[None] | None = None
    ended_by: Ending | None = None

    def end(self, reason: Ending) -> None:
        """Cancel the handler. One that is committing the end of its job just now is left to the database, unless it
        takes too long.
        """
        may_be_cancelled = not self.job.is_finishing or reason == "timed_out"
        if self.task is not None and self.ended_by is None and may_be_cancelled:
            self.ended_by = reason
            self.task.cancel()

    def give_up(self) -> None:
        """Cancel a handler again that is still cleaning up: a process that stops waits for nobody's farewell."""
        if self.task is not None and self.ended_by is not None:
            self.task.cancel()


class TimeLimits:
    """Ends handlers whose time is up. One timer, for the next that may be, watches them all."""

    def __init__(self) -> None:
        self._runs: set[Run] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, run: Run, seconds: float) -> None:
        run.overdue_at = asyncio.get_running_loop().time() + seconds
        self._runs.add(run)
        if self._timer is None or run.overdue_at < self._timer.when():
            self._look_at(run.overdue_at)

    def leave(self, run: Run) -> None:
        self._runs.discard(run)

    def _look_at(self, instant: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(instant, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for run in [run for run in self._runs if run.overdue_at <= now]:
            self._runs.discard(run)
            run.end("timed_out")
        if self._runs:
            self._look_at(min(run.overdue_at for run in self._runs))


def tokens(runs: Iterable[Run]) -> dict[str, object]:
    """Their ids and attempts, as statements take them."""
    jobs = [run.job for run in runs]
    return {"ids": [job.id for job in jobs], "attempts": [job.attempt for job in jobs]}


def end_expired(runs: Iterable[Run], now: float) -> None:
    """End the handlers whose lease has run out by this process's clock: another worker may run their jobs by now."""
    for run in runs:
        if now >= run.lease_until:
            run.end("lease_lost")
