"""The worker process opens its resources and runs the service's parts, beside a management port for health checks and
metrics. After a stop signal, the process drains: the parts finish the work that they have begun.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from starlette.types import ASGIApp

from chassis.app.worker.resources import WorkerResources, open_worker_resources
from chassis.app.worker.stages import GRACE_SECONDS, Stages, run_stages, work_left
from chassis.circuit_breaker import routes as breaker_routes
from chassis.config import Live
from chassis.config.settings import ServiceSettings
from chassis.jobs import routes as job_routes
from chassis.process.ending import Ending
from chassis.process.garbage import freeze_start_up
from chassis.process.health import Health
from chassis.process.management_app import management_app
from chassis.process.reloading import reloading
from chassis.process.running import run_process
from chassis.process.server import Server

type OpenParts[S: ServiceSettings] = Callable[[Live[S], WorkerResources], AbstractAsyncContextManager[Stages]]
"""A service's composition root: it yields the parts of the worker, grouped into stages."""


def run_worker[S: ServiceSettings](live: Live[S], *, version: str, open_parts: OpenParts[S]) -> None:
    """Run a worker process until SIGTERM or SIGINT, then drain. Returns when the management port and all resources are
    closed.
    """

    async def main(info: Mapping[str, str], ending: Ending) -> None:
        async with (
            open_worker_resources(live) as resources,
            open_parts(live, resources) as stages,
            reloading(live),
        ):
            health = Health(resources.checks)
            management = management_app(
                health,
                info,
                token=lambda: live.current.management.token,
                hosts=lambda: live.current.management.hosts,
                routes=[*job_routes.routes(resources.database), *breaker_routes.routes(resources.breakers)],
            )
            await serve_stages(live.current, ending=ending, health=health, management=management, stages=stages)

    run_process(live, version=version, role="worker", main=main)


async def serve_stages(
    settings: ServiceSettings, *, ending: Ending, health: Health, management: ASGIApp, stages: Stages
) -> None:
    """Run the parts and the management port until SIGTERM or SIGINT. Then stop the parts, and after them the port.

    Returns within `shutdown.drain_timeout` plus `GRACE_SECONDS` after the signal, or raises the exceptions of
    `run_stages`.
    """
    loop = asyncio.get_running_loop()
    stopping = ending.stop_signal(seconds=settings.shutdown.limit, left=lambda: {"left": work_left(loop)})
    server = Server(
        management, host=settings.management.host, port=settings.management.port, drain_timeout=GRACE_SECONDS
    )
    async with server.running(stopping):
        freeze_start_up()
        await run_stages(
            stages,
            stopping,
            on_started=health.mark_started,
            on_stopping=health.mark_draining,
            on_failed=stopping.begin,
            drain_timeout=settings.shutdown.drain_timeout + GRACE_SECONDS,
        )
