"""From the start of a process to its end: `run_process` sets up logging, tracing and the watchdog, and runs `main`."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import uvloop
from prometheus_client import Gauge

from chassis.config import Live
from chassis.config.settings import ServiceSettings, flags_of
from chassis.errors import HoldfastError
from chassis.logging import configure_logging, get_logger, levels, put_on_every_canonical_line
from chassis.process import watchdog
from chassis.process.ending import Ending
from chassis.telemetry import configure_tracing

log = get_logger(__name__)

config_info = Gauge("config_info", "1 for the hash of the configuration that this process uses.", ["hash"])


@contextmanager
def identify[S: ServiceSettings](live: Live[S], *, version: str, role: str) -> Iterator[Mapping[str, str]]:
    """Set up logging and tracing for a process. Yields the content of `/info`, which is updated when settings change.

    The block contains all work of the process. If the block raises an error, the last log line reports the error, and
    the process ends with exit code 1.
    """
    settings = live.current
    info = {
        "service": settings.service_name,
        "role": role,
        "version": version,
        "environment": settings.environment,
        "instance": f"{socket.gethostname()}-{os.getpid()}",
    }
    configure_logging(settings.log, **info)

    def follow(current: S) -> None:
        levels().set_base(current.log.level)
        info["config_hash"] = live.hash
        config_info.clear()
        config_info.labels(live.hash).set(1)
        put_on_every_canonical_line(config_hash=live.hash)

    _warn_of_expired_flags(settings, datetime.now(UTC).date())
    stop_tracing = configure_tracing(settings, version=version, instance_id=info["instance"])
    live.watch(follow)
    try:
        yield info
    except Exception as error:
        # The message of a `HoldfastError` explains the failure without a traceback. Any other error is logged with its
        # traceback.
        reasons = "; ".join(f"{type(cause).__name__}: {cause}" for cause in _causes(error))
        log.critical("process_failed", reason=reasons, exc_info=None if isinstance(error, HoldfastError) else error)
        raise SystemExit(1) from error
    finally:
        stop_tracing()


START_SECONDS = 60.0
"""The time limit for the set-up of logging and tracing, before the event loop starts."""


def run_process[S: ServiceSettings](
    live: Live[S], *, version: str, role: str, main: Callable[[Mapping[str, str], Ending], Coroutine[Any, Any, None]]
) -> None:
    """Run `main(info, ending)` under a watchdog. After `main` has ended, the process ends within `EXIT_SECONDS`."""

    async def watched(info: Mapping[str, str]) -> None:
        async with watchdog.watching(live.current.jobs.loop_limit):
            await main(info, ending)

    watchdog.set_timer(START_SECONDS)
    ending = Ending()
    with (
        identify(live, version=version, role=role) as info,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        try:
            runner.run(watched(info))
        finally:
            ending.leave()


def _warn_of_expired_flags(settings: ServiceSettings, today: date) -> None:
    for flag in flags_of(type(settings)):
        if flag.is_expired(today):
            log.warning("flag_expired", flag=flag.name, owner=flag.owner, until=flag.until.isoformat())


def _causes(error: Exception) -> list[Exception]:
    """The errors inside `error` if it is the exception group of a task group; otherwise only `error`."""
    if isinstance(error, ExceptionGroup):
        return [cause for inner in error.exceptions for cause in _causes(inner)]
    return [error]


def new_event_loop() -> asyncio.AbstractEventLoop:
    return uvloop.new_event_loop()
