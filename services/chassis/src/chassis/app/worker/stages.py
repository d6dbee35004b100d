"""A worker process: jobs, consumers and the relay side by side, with a management port, stopped in order.

The composition root builds everything and closes it afterwards; this runs it in between.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from starlette.types import ASGIApp

from chassis.config.settings import ServiceSettings
from chassis.errors import HoldfastError
from chassis.logging import get_logger
from chassis.process.background import Group
from chassis.process.ending import DrainTimedOut, Ending
from chassis.process.health import Health
from chassis.process.running import keep_start_up
from chassis.process.server import Server

log = get_logger(__name__)

type Part = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""`JobRunner.run`, `Consumer.run` or `Relay.run`: works until the event is set, then finishes and returns."""

GRACE_SECONDS = 5.0
"""Beyond the drain time-out, for handing jobs back and publishing what they wrote."""


_PART, _JOB = "part-", "job-"
"""How the names of tasks begin: ours, and those that the job runner gives to its jobs."""


class PartEnded(HoldfastError):
    """A part of the worker returned though nobody asked it to."""


async def run_worker(
    settings: ServiceSettings,
    *,
    ending: Ending,
    health: Health,
    management: ASGIApp,
    stages: Sequence[Sequence[Part]],
) -> None:
    """Run the parts until SIGTERM, then stop them stage by stage: `[[jobs.run, consumer.run], [relay.run]]`.

    The relay comes last, so that it still publishes what the last jobs wrote; the management port outlives them all.
    Returns when everything has stopped, within `shutdown.drain_timeout` and `GRACE_SECONDS`, else raises
    `DrainTimedOut` with what was left. When a part fails, the others are cancelled and an `ExceptionGroup` is raised:
    the process ends and is started again, rather than going on with a part missing.
    """
    loop = asyncio.get_running_loop()
    stopping = ending.stop_signal(seconds=settings.shutdown.limit, left=lambda: {"left": _work_left(loop)})
    server = Server(
        management, host=settings.management.host, port=settings.management.port, drain_timeout=GRACE_SECONDS
    )
    async with server.running(stopping):
        keep_start_up()
        await run_stages(
            stages,
            stopping,
            on_started=health.mark_started,
            on_stopping=health.mark_draining,
            on_failed=stopping.begin,
            drain_timeout=settings.shutdown.drain_timeout + GRACE_SECONDS,
        )


async def run_stages(
    stages: Sequence[Sequence[Part]],
    stopping: asyncio.Event,
    *,
    on_started: Callable[[], None],
    on_stopping: Callable[[], None],
    on_failed: Callable[[], None],
    drain_timeout: float,
) -> None:
    """Start every part; once `stopping` is set, stop one stage after the other, in `drain_timeout` seconds.

    `on_failed` is called when a part fails, before the others are cancelled.
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
            left = _work_left(asyncio.get_running_loop())
        if left:
            log.error("worker_drain_timed_out", left=left)  # now: what hangs may keep the process from saying more
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
    """`JobRunner` for its method `run`."""
    return getattr(part, "__qualname__", repr(part)).removesuffix(".run")


def _work_left(loop: asyncio.AbstractEventLoop) -> list[str]:
    """The parts and jobs that still run, by the names of their tasks. May be asked in another thread."""
    names = (task.get_name() for task in asyncio.all_tasks(loop))
    return sorted(name for name in names if name.startswith((_PART, _JOB)))
