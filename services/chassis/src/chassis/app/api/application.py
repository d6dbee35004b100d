"""A FastAPI application with one middleware around its routes, `RequestContext`, instead of FastAPI's own
middleware.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.app.api.error_documents import describe_errors
from chassis.app.api.limits import spend_as_stranger
from chassis.app.api.load_shedding import LoadShedder
from chassis.app.api.middleware import RequestContext
from chassis.app.api.resources import ApiResources, OpenResources, open_api_resources, open_nothing_more
from chassis.app.api.routing import Route, Router, describe_access, refuse_undeclared
from chassis.circuit_breaker import BreakerRegistry
from chassis.config import Live
from chassis.config.settings import HttpSettings, ServiceSettings
from chassis.errors import ConfigurationError
from chassis.process.health import Health


def build_app[S: ServiceSettings](
    live: Live[S],
    *,
    version: str,
    routers: Sequence[Router],
    open_resources: OpenResources[S] = open_nothing_more,
) -> "Application":
    """The application of a service, with its routes.

    The application calls `open_resources` when the process starts, with the settings and the resources that every API
    has. `open_resources` yields one object, which routes get through `chassis.app.api.opened`.
    """

    @asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        try:
            async with open_api_resources(live, app.breakers) as base, open_resources(live, base) as found:
                app.resources, app.opened = base, found
                app.health.checks.update(base.checks)
                yield
        except ConfigurationError as error:
            app.misconfigured = error
            raise

    return Application(
        lambda: live.current.http,
        routers=routers,
        title=f"Holdfast {live.current.service_name}",
        version=version,
        lifespan=lifespan,
    )


class Application(FastAPI):
    """An application that answers every error in the same JSON envelope (an object with `error` and `request_id`).
    `current` returns the settings that are valid now.

    Middleware that a service adds runs inside `RequestContext`, the chassis' middleware around all routes.
    `add_exception_handler` has no effect: `error_rendering` decides how an error is answered.

    Requests read the resources of the process from attributes of this object. Attributes of `app.state` would be slower
    to read, because the class of `app.state` implements attribute access in Python.
    """

    resources: ApiResources
    """The resources that every API has. The application sets this attribute at start-up."""
    opened: object = None
    """The object that the service's `OpenResources` yielded at start-up."""
    misconfigured: ConfigurationError | None = None
    """The configuration error that ended start-up; None if there was none."""

    def __init__(self, current: Callable[[], HttpSettings], *, routers: Sequence[Router] = (), **options: Any) -> None:
        # With `redirect_slashes=False` a path with a wrong trailing slash gets a 404. A redirect to the right path
        # would contain the request's Host header, which a caller can forge.
        super().__init__(redirect_slashes=False, openapi_url=None, docs_url=None, redoc_url=None, **options)
        self.router.route_class = Route
        self.router.default = _answer_no_route
        document = Router()
        document.get("/openapi.json", public=True, criticality="sheddable", include_in_schema=False)(_answer_document)
        # The routes are added without FastAPI's `include_router`, which would match each request twice. Routes are
        # tried in this order. The route of the OpenAPI document is used least, so it comes last.
        self.router.routes[:] = [route for router in (*routers, document) for route in router.routes]
        self.health = Health()
        self.load_shedder = LoadShedder(current)
        self.breakers = BreakerRegistry()
        self._http = current()

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            describe_errors(document)
            describe_access(document, self.router.routes)
        return super().openapi()

    def build_middleware_stack(self) -> ASGIApp:
        refuse_undeclared(self.router.routes)
        app: ASGIApp = self.router
        for middleware, arguments, options in reversed(self.user_middleware):
            app = middleware(app, *arguments, **options)
        return RequestContext(app, self._http)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        await self.middleware_stack(scope, receive, send)


async def _answer_no_route(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 404 for a path that matches no route. Callers need no key for this answer, so each answer counts against
    the rate limit of the caller's IP address.
    """
    if scope["type"] == "http":
        await spend_as_stranger(Request(scope, receive, send))
    raise HTTPException(404)


async def _answer_document(request: Request) -> Response:
    """Answer with the OpenAPI document. Callers need no key for the document, so each answer counts against the rate
    limit of the caller's IP address.
    """
    await spend_as_stranger(request)
    app: Application = request.app
    return Response(orjson.dumps(app.openapi()), media_type="application/json")
