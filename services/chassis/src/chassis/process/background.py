"""Background tasks. No task that is started with these functions ends unnoticed. The end of a task has these effects:

    supervised(work) ── fails or returns ──▶ the failure is logged and counted, `/readyz` names the task for a while,
                                             and the work starts again after a pause
    Group.start()    ── fails ─────────────▶ the whole group fails, because the process needs each task of a group

`supervised` is for tasks without which the process can work for a while. `Group` is for all other tasks.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from prometheus_client import Counter

from chassis.errors import HoldfastError
from chassis.logging import Logger, get_logger

log = get_logger(__name__)

failures = Counter("background_task_failures", "Times that a background task failed and started again.", ["task"])

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0
RECOVERED_SECONDS = 60.0
"""A task that has worked for this long counts as recovered. This time is longer than the longest pause and than the
interval of any periodic task, so a task that fails in every interval does not count as recovered."""

type Work = Callable[[], Coroutine[Any, Any, None]]
type Sleep = Callable[[float], Awaitable[object]]


class TaskEnded(HoldfastError):
    """A background task returned, or cancelled itself, although the task should work until the process stops it."""


_last_failures: dict[str, tuple[float, str]] = {}
"""The time (monotonic seconds) and the error type of each task's latest failure, for the whole process."""


def failing() -> Mapping[str, str]:
    """The error types of the tasks that have failed within the last `RECOVERED_SECONDS`, by task name."""
    since = time.monotonic() - RECOVERED_SECONDS
    return {name: error for name, (failed_at, error) in _last_failures.items() if failed_at > since}


def _is_never(_error: Exception) -> bool:
    return False


@asynccontextmanager
async def supervised(
    work: Work,
    *,
    name: str,
    is_outage: Callable[[Exception], bool] = _is_never,
    sleep: Sleep = asyncio.sleep,
) -> AsyncIterator[None]:
    """Keep `work()` running while the block runs. The end of the block cancels the work and waits for it.

    `work` must not return: a return counts as a failure. After a failure the work starts again. The pause before the
    new start grows with each failure in a row. `is_outage` recognises the errors of a dependency that is down: see
    `log_failure`.
    """
    # This call exports the value 0, so that an alert sees the first failure as an increase.
    failures.labels(name)
    task = asyncio.create_task(_keep_going(work, name, is_outage, sleep), name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _keep_going(work: Work, name: str, is_outage: Callable[[Exception], bool], sleep: Sleep) -> None:
    in_a_row = 0
    while True:
        began = time.monotonic()
        error = await _failure_of(work)
        in_a_row = 1 if time.monotonic() - began > RECOVERED_SECONDS else in_a_row + 1
        pause = pause_after(in_a_row, draw=random.random())  # noqa: S311  a pause needs no cryptographic random numbers
        with suppress(Exception):  # an error of the logging, such as a lack of memory, must not end the task
            _note(name, error, outage=is_outage(error), again_in=pause)
        await sleep(pause)


def pause_after(in_a_row: int, *, draw: float) -> float:
    """Seconds until a task starts again after `in_a_row` failures in a row.

    Half of the pause is random (`draw`, from 0 to 1), so that processes that failed together do not start together.
    """
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(in_a_row - 1, 10))
    return longest * (1 + draw) / 2


async def _failure_of(work: Work) -> Exception:
    try:
        await uncancelled(work)
    except Exception as error:  # noqa: BLE001  every error of a task is recorded, and the task starts again
        return error
    return TaskEnded("it returned")


async def uncancelled[T](work: Callable[[], Awaitable[T]]) -> T:
    """Await `work()`. Raises `TaskEnded` if `work` raises `CancelledError` although its task was not cancelled."""
    try:
        return await work()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise TaskEnded("it was cancelled from inside") from error


def _note(name: str, error: Exception, *, outage: bool, again_in: float) -> None:
    _last_failures[name] = (time.monotonic(), type(error).__name__)
    failures.labels(name).inc()
    log_failure(log, "background_task_failed", error, is_outage=outage, task=name, again_in=round(again_in, 1))


def log_failure(logger: Logger, event: str, error: Exception, *, is_outage: bool, **fields: object) -> None:
    """Log a failure after which the work continues: an outage as a warning, any other failure as an error with its
    traceback.
    """
    fields["error"] = f"{type(error).__name__}: {error}"
    if is_outage:
        logger.warning(event, **fields)
    else:
        logger.error(event, **fields, exc_info=error)


class Group(asyncio.TaskGroup):
    """A task group that fails if one of its tasks cancels itself. asyncio's TaskGroup continues without that task."""

    def start(self, work: Work, *, name: str) -> asyncio.Task[None]:
        return self.create_task(uncancelled(work), name=name)
