"""The API process serves the application and the management port until SIGTERM or SIGINT. Then it drains: it finishes
the requests that have begun.
"""

import asyncio
from collections.abc import Mapping
from functools import partial

from chassis.app.api import error_rendering
from chassis.app.api.application import Application
from chassis.circuit_breaker import routes as breaker_routes
from chassis.config import Live
from chassis.config.settings import ServiceSettings
from chassis.logging import get_logger
from chassis.process.ending import DrainTimedOut, Ending
from chassis.process.garbage import freeze_start_up
from chassis.process.management_app import management_app
from chassis.process.reloading import reloading
from chassis.process.running import run_process
from chassis.process.server import ServeError, Server

log = get_logger(__name__)


def run_api[S: ServiceSettings](live: Live[S], app: Application) -> None:
    """Serve `app` and its management port until SIGTERM or SIGINT, then drain. Returns when both ports and all
    resources are closed.
    """
    run_process(live, version=app.version, role="api", main=partial(_serve, live, app))


async def _serve[S: ServiceSettings](live: Live[S], app: Application, info: Mapping[str, str], ending: Ending) -> None:
    try:
        await _serve_until_stopped(live, app, info, ending)
    except ServeError:
        if app.misconfigured is not None:
            raise app.misconfigured from None  # a `ServeError` does not contain the reason
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
            routes=breaker_routes.routes(app.breakers),
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
    # The first call of this function generates schemas, which takes some milliseconds. The process makes this call
    # before it opens its ports, so no request waits for the schemas.
    error_rendering.marked_fields(app)
    async with management.running(stopping), public.running(stopping), reloading(live):
        freeze_start_up()
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
