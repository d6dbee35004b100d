"""Health: what a process says of itself on its management port.

Liveness answers as long as the event loop turns and never touches a dependency: restarting this process does not
heal a database. Readiness asks the dependencies without which no request can be answered. A background task that fails
is named beside them and changes neither: it begins again by itself, and requests are answered without it meanwhile.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from chassis.errors import ApiError
from chassis.operating import background, log_levels
from chassis.operating.management import ManagementGuard, Token, on_api_error, on_framework_error, on_unexpected
from chassis.operating.management_hosts import Hosts

type Check = Callable[[], Awaitable[None]]

CHECK_TIMEOUT = 1.0  # seconds; below the probe's own time-out, so that the answer names the dependency


class Health:
    """Whether this process has started, is ready and is on its way out.

    `checks` maps a dependency's name to what raises unless it can be used.
    """

    def __init__(self, checks: Mapping[str, Check] | None = None) -> None:
        self.checks = dict(checks or {})
        self.is_started = False
        self.is_draining = False

    def mark_started(self) -> None:
        self.is_started = True

    def mark_draining(self) -> None:
        self.is_draining = True

    async def problems(self) -> dict[str, str]:
        """What keeps this process from being ready, by name; empty when it is."""
        if not self.is_started:
            return {"process": "still starting"}
        if self.is_draining:
            return {"process": "shutting down"}
        found = await asyncio.gather(*(_run(check) for check in self.checks.values()))
        return {name: problem for name, problem in zip(self.checks, found, strict=True) if problem}


async def _run(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT} s"
    except Exception as error:  # noqa: BLE001  whatever a check raises means the same: not ready
        return type(error).__name__
    return None


def management_app(
    health: Health,
    info: Mapping[str, str],
    *,
    token: Token,
    hosts: Hosts = tuple,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The management port: `/livez /readyz /startupz /metrics /info /log-levels` and `routes`.

    Never routed from outside. What changes something needs the `token`, and the Host has to be one of `hosts` or
    private, as `ManagementGuard` says.
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
