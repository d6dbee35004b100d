"""The parts of a worker: they run side by side, and stop stage by stage.

The first stage has the parts that write events. The last stage has the relay, which publishes events, so that the
events of the last jobs are published before the worker ends.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from chassis.errors import HoldfastError
from chassis.logging import get_logger
from chassis.process.background import Group
from chassis.process.ending import DrainTimedOut

log = get_logger(__name__)

type Part = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""A part of a worker is `JobRunner.run`, `Consumer.run`, `Scheduler.run` or `Relay.run`. A part works until the
`asyncio.Event` that it receives is set. Then the part finishes the work that it has begun, and returns.
"""

type Stages = Sequence[Sequence[Part]]
"""The parts in the order in which they stop, for example `[[jobs.run, consumer.run], [relay.run]]`. The parts of an
inner list stop together.
"""

GRACE_SECONDS = 5.0
"""After the drain time-out, the time in which the parts may finish their work, a worker has this many seconds to return
unfinished jobs to their queue and to publish the last events.
"""

_PART, _JOB = "part-", "job-"
"""The names of asyncio tasks start with these prefixes: `part-` for a part, `job-` for a job that a job runner runs."""


class PartEnded(HoldfastError):
    """A part of the worker returned before the worker stopped it."""


async def run_stages(
    stages: Stages,
    stopping: asyncio.Event,
    *,
    on_started: Callable[[], None],
    on_stopping: Callable[[], None],
    on_failed: Callable[[], None],
    drain_timeout: float,
) -> None:
    """Start every part. Once `stopping` is set, stop one stage after the other, within `drain_timeout` seconds in all.

    Raises `DrainTimedOut`, which names the parts and jobs that still run, when `drain_timeout` seconds are over. When a
    part fails, calls `on_failed`, cancels the other parts and raises an `ExceptionGroup`. The process then ends and
    Kubernetes restarts it, so a worker never runs without one of its parts.
    """
    async with Group() as tasks:
        started = [_start(stage, tasks, on_failed) for stage in stages]
        on_started()
        log.info("worker_started")
        await stopping.wait()
        on_stopping()
        log.info("worker_draining")
        left: list[str] = []
        try:
            async with asyncio.timeout(drain_timeout):
                for stop, running in started:
                    stop.set()
                    await asyncio.wait(running)
        except TimeoutError:
            left = work_left(asyncio.get_running_loop())
        if left:
            # The line is written before the `async with` block ends, because the block's end waits for the parts.
            log.error("worker_drain_timed_out", left=left)
            raise DrainTimedOut(f"left after {drain_timeout:g} s: {', '.join(left)}")
    log.info("worker_stopped")


def _start(
    stage: Sequence[Part], tasks: Group, on_failed: Callable[[], None]
) -> tuple[asyncio.Event, list[asyncio.Task[None]]]:
    stop = asyncio.Event()
    return stop, [tasks.start(partial(_watch, part, stop, on_failed), name=_PART + _name(part)) for part in stage]


async def _watch(part: Part, stop: asyncio.Event, on_failed: Callable[[], None]) -> None:
    try:
        await part(stop)
    except Exception:
        on_failed()
        raise
    if not stop.is_set():
        on_failed()
        raise PartEnded(f"{_name(part)} ended by itself")


def _name(part: Part) -> str:
    """The name of the part's class, such as `JobRunner` for `JobRunner.run`."""
    return getattr(part, "__qualname__", repr(part)).removesuffix(".run")


def work_left(loop: asyncio.AbstractEventLoop) -> list[str]:
    """The names of the asyncio tasks of parts and jobs that still run. Any thread may call this function."""
    names = (task.get_name() for task in asyncio.all_tasks(loop))
    return sorted(name for name in names if name.startswith((_PART, _JOB)))
