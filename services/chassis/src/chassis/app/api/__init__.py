"""The HTTP application of a service, and the process that serves it on two ports until it is told to stop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from chassis.app.api import error_rendering
from chassis.app.api.access import Caller
from chassis.app.api.application import Application
from chassis.app.api.keyed import Keyed, answer_with
from chassis.app.api.resources import ApiResources
from chassis.app.api.routing import Router, UndeclaredRoute
from chassis.config import Live
from chassis.config.settings import ServiceSettings
from chassis.errors import ConfigurationError
from chassis.logging import get_logger
from chassis.process.ending import DrainTimedOut, Ending
from chassis.process.management_app import management_app
from chassis.process.reloading import reloading
from chassis.process.running import keep_start_up, run_process
from chassis.process.server import ServeError, Server

__all__ = [
    "Caller",
    "Keyed",
    "Router",
    "UndeclaredRoute",
    "answer_with",
    "create_app",
    "run_api",
]

log = get_logger(__name__)


def create_app[S: ServiceSettings](
    live: Live[S],
    *,
    version: str,
    routers: Sequence[Router],
    open_resources: Callable[[], AbstractAsyncContextManager[ApiResources]],
) -> Application:
    """The application: the service's routes inside the chassis' frame.

    `open_resources` opens pools and clients when the process starts and closes them, in reverse order, when the last
    request has been answered.
    """
    settings = live.current

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        try:
            async with open_resources() as resources:
                app.resources = resources
                app.health.checks.update(resources.checks)
                yield {}
        except ConfigurationError as error:
            app.misconfigured = error
            raise

    app = Application(
        lambda: live.current.http,
        routers=routers,
        title=f"Holdfast {settings.service_name}",
        version=version,
        lifespan=lifespan,
    )
    return app


def run_api[S: ServiceSettings](live: Live[S], app: Application) -> None:
    """Serve `app` and its management port until SIGTERM or SIGINT, then drain. Returns when all is closed."""
    run_process(live, version=app.version, role="api", main=partial(_serve, live, app))


async def _serve[S: ServiceSettings](live: Live[S], app: Application, info: Mapping[str, str], ending: Ending) -> None:
    try:
        await _serve_until_stopped(live, app, info, ending)
    except ServeError:
        if app.misconfigured is not None:
            raise app.misconfigured from None  # the server knows only that it did not start
        raise


async def _serve_until_stopped[S: ServiceSettings](
    live: Live[S], app: Application, info: Mapping[str, str], ending: Ending
) -> None:
    settings = live.current
    drain_timeout = settings.shutdown.drain_timeout
    management = Server(
        management_app(
            app.health,
            info,
            token=lambda: live.current.management.token,
            hosts=lambda: live.current.management.hosts,
        ),
        host=settings.management.host,
        port=settings.management.port,
        drain_timeout=1,
    )
    public = Server(
        app,
        host=settings.http.host,
        port=settings.http.port,
        drain_timeout=drain_timeout,
        trusted_proxies=[str(network) for network in settings.http.trusted_proxies],
    )
    stopping = ending.stop_signal(seconds=settings.shutdown.limit, left=lambda: {"requests": public.requests})
    error_rendering.marked_fields(app)  # now, or everybody waits while the first wrong request is answered
    async with management.running(stopping), public.running(stopping), reloading(live):
        keep_start_up()
        app.health.mark_started()
        log.info(
            "process_started",
            address=f"{settings.http.host}:{settings.http.port}",
            config_hash=info["config_hash"],
        )
        await stopping.wait()
        app.health.mark_draining()
        public.send_clients_away()
        log.info("process_draining", seconds=drain_timeout)
        await asyncio.sleep(settings.shutdown.readiness_delay)
    if public.cut_off:
        raise DrainTimedOut(f"{public.cut_off} requests were cut off after {drain_timeout:g} s")
    log.info("process_stopped")
