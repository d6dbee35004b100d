"""Time limits of handlers: one timer for the earliest limit serves all of them."""

import asyncio

from chassis.jobs.runs import Run


class TimeLimits:
    """Ends the handlers whose time limit has passed."""

    def __init__(self) -> None:
        self._runs: set[Run] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, run: Run, seconds: float) -> None:
        """End the run's handler after `seconds`, unless `unwatch` comes first."""
        run.overdue_at = asyncio.get_running_loop().time() + seconds
        self._runs.add(run)
        if self._timer is None or run.overdue_at < self._timer.when():
            self._set_timer(run.overdue_at)

    def unwatch(self, run: Run) -> None:
        self._runs.discard(run)

    def _set_timer(self, instant: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(instant, self._end_overdue)

    def _end_overdue(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for run in [run for run in self._runs if run.overdue_at <= now]:
            self._runs.discard(run)
            run.end("timed_out")
        if self._runs:
            self._set_timer(min(run.overdue_at for run in self._runs))
