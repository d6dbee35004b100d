"""Finished jobs wait here until a turn of their worker commits their end, that of all at once.

A handler's task waits for it, so that nothing is reported as done which is not.
"""

import asyncio
from collections.abc import Container
from typing import Protocol

from chassis.jobs import RunningJob


class Leased(Protocol):
    """A job with its lease, which the heartbeat extends: `lease_until` is on the monotonic clock."""

    @property
    def job(self) -> RunningJob: ...

    @property
    def lease_until(self) -> float: ...


class Completions[Run: Leased]:
    """The jobs of a worker whose handlers are done and whose end is not committed yet."""

    def __init__(self) -> None:
        self._waiting: dict[Run, asyncio.Future[bool]] = {}

    def complete(self, run: Run) -> asyncio.Future[bool]:
        """To be awaited: whether the job was still ours when its end was committed."""
        is_ended = self._waiting[run] = asyncio.get_running_loop().create_future()
        return is_ended

    def take(self) -> dict[Run, asyncio.Future[bool]]:
        """All that wait, for a turn, and whom to `tell` of it."""
        taken, self._waiting = self._waiting, {}
        return taken

    def put_back(self, taken: dict[Run, asyncio.Future[bool]]) -> None:
        """After a turn that failed: they wait for the next."""
        self._waiting = taken | self._waiting

    def give_up(self, now: float) -> None:
        """Those whose lease has run out meanwhile: somebody else may run them by now."""
        waiting = self.take()
        self._waiting = {run: is_ended for run, is_ended in waiting.items() if now < run.lease_until}
        for run in waiting.keys() - self._waiting.keys():
            _tell(waiting[run], answer=False)


def tell[Run: Leased](taken: dict[Run, asyncio.Future[bool]], *, lost: Container[tuple[int, int]]) -> None:
    """What came of a turn: `lost` has the id and attempt of each whose lease was lost."""
    for run, is_ended in taken.items():
        _tell(is_ended, answer=(run.job.id, run.job.attempt) not in lost)


def _tell(is_ended: asyncio.Future[bool], *, answer: bool) -> None:
    if not is_ended.done():  # the task that waits may have been cancelled
        is_ended.set_result(answer)
