"""A process: who it is, how it serves, and how it is told to stop.

Two servers (public and management) live in one process, so uvicorn leaves signals alone here and the composition root
stops things in the right order.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Mapping

import uvicorn
import uvloop
from prometheus_client import Gauge
from starlette.types import ASGIApp

from chassis.config import config_hash
from chassis.errors import HoldfastError
from chassis.logging import configure_logging, get_logger
from chassis.settings import ServiceSettings
from chassis.telemetry import configure_tracing

log = get_logger(__name__)

config_info = Gauge("config_info", "1 for the configuration this process runs with.", ["hash"])

KEEP_ALIVE = 75  # seconds; above the 60 s of common proxies, so that it is they who close an idle connection


@contextlib.contextmanager
def identify(settings: ServiceSettings, *, version: str, role: str) -> Iterator[Mapping[str, str]]:
    """Set up logging and tracing for a process; yields what `/info` tells of it.

    The block is the process: what it raises is the last line of its log, and the process ends with exit code 1.
    """
    info = {
        "service": settings.service_name,
        "role": role,
        "version": version,
        "environment": settings.environment,
        "instance": f"{socket.gethostname()}-{os.getpid()}",
    }
    configure_logging(settings.log, **info)
    fingerprint = config_hash(settings)
    config_info.labels(fingerprint).set(1)
    stop_tracing = configure_tracing(settings, version=version, instance_id=info["instance"])
    try:
        yield {**info, "config_hash": fingerprint}
    except Exception as error:
        # Whoever raised an error of ours has said all there is to say; of any other one the traceback is needed.
        reasons = "; ".join(f"{type(cause).__name__}: {cause}" for cause in _causes(error))
        log.critical("process_failed", reason=reasons, exc_info=None if isinstance(error, HoldfastError) else error)
        raise SystemExit(1) from error
    finally:
        stop_tracing()


def _causes(error: Exception) -> list[Exception]:
    """What went wrong, without the groups that task groups put around it."""
    if isinstance(error, ExceptionGroup):
        return [cause for inner in error.exceptions for cause in _causes(inner)]
    return [error]


class ServeError(HoldfastError):
    """The server could not start: the port is taken, or opening the process' resources failed."""


class Server(uvicorn.Server):
    """Serves `app` on host and port; when it stops, requests under way get `drain_timeout` seconds."""

    def __init__(self, app: ASGIApp, *, host: str, port: int, drain_timeout: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                # Without it uvicorn goes on serving when opening the application's resources fails early.
                lifespan="on",
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(drain_timeout)),
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The block runs while the port is open; at its end requests are drained and the application is closed.

        Raises `ServeError` when it cannot start.
        """
        task = asyncio.create_task(self._serve_or_raise(), name=f"server:{self.config.port}")
        try:
            while not self.started:
                done, _ = await asyncio.wait({task}, timeout=0.01)
                if done:
                    task.result()
                    raise ServeError(f"cannot serve on {self.config.host}:{self.config.port}")
            yield
        finally:
            self.should_exit = True
            await task

    async def wait_until(self, stopping: asyncio.Event) -> None:
        """Return when `stopping` is set; raise `ServeError` if the server ends before."""
        while not stopping.is_set():
            if self.should_exit:
                raise ServeError("the server ended by itself")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), timeout=1)

    async def _serve_or_raise(self) -> None:
        try:
            await self.serve()
        except SystemExit as error:
            # uvicorn ends the process when the port is taken; here another server has to be closed first.
            raise ServeError(f"cannot serve on {self.config.host}:{self.config.port}: port taken?") from error


def stop_signal() -> asyncio.Event:
    """An event set by SIGTERM or SIGINT; a second signal ends the process at once with exit code 1."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            log.critical("process_killed", reason="second signal while draining")
            os._exit(1)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stopping


def new_event_loop() -> asyncio.AbstractEventLoop:
    return uvloop.new_event_loop()
