"""The application behind the management port: probes, metrics, and the routes for operators."""

import os
import time
from collections.abc import Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from chassis.errors import ApiError
from chassis.process import background, log_levels
from chassis.process.health import Health
from chassis.process.management import ManagementGuard, Token, on_api_error, on_framework_error, on_unexpected
from chassis.process.management_hosts import Hosts


def management_app(
    health: Health,
    info: Mapping[str, str],
    *,
    token: Token,
    hosts: Hosts = tuple,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application of the management port: `/livez /readyz /startupz /metrics /info /log-levels` and `routes`.

    Requests from outside the cluster are never routed to this application. `ManagementGuard` checks the Host of every
    request, with `hosts` as additional names, and the management token of every request that changes something.
    """
    started_at = time.time()

    async def livez(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_request: Request) -> Response:
        problems = await health.problems()
        return JSONResponse(
            {
                "status": "not ready" if problems else "ready",
                "problems": problems,
                "failing_tasks": background.failing(),
            },
            503 if problems else 200,
        )

    async def startupz(_request: Request) -> Response:
        return JSONResponse({"started": health.is_started}, 200 if health.is_started else 503)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def about(_request: Request) -> Response:
        return JSONResponse({**info, "pid": os.getpid(), "started_at": started_at})

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/startupz", startupz),
            Route("/metrics", metrics),
            Route("/info", about),
            *log_levels.routes(),
            *routes,
        ],
        middleware=[Middleware(ManagementGuard, token=token, hosts=hosts)],
        exception_handlers={ApiError: on_api_error, HTTPException: on_framework_error, Exception: on_unexpected},
    )
