"""FastAPI as this platform uses it: one frame around the routes, `RequestContext`, instead of the framework's seven."""

from collections.abc import Callable, Sequence
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
from chassis.app.api.resources import ApiResources
from chassis.app.api.routing import Route, Router, describe_access, refuse_undeclared
from chassis.config.settings import HttpSettings
from chassis.errors import ConfigurationError
from chassis.process.health import Health


class Application(FastAPI):
    """An application whose every error is answered in the envelope; `current` returns the settings that are valid now.

    Middleware that is added comes inside `RequestContext`. Handlers of exceptions are not asked: `error_rendering` says
    how an error is answered.

    What a request needs of its process are attributes here: `app.state` looks each of its names up in Python.
    """

    resources: ApiResources
    """There from start-up on."""
    misconfigured: ConfigurationError | None = None
    """Why they could not be opened, where the configuration is the reason."""

    def __init__(self, current: Callable[[], HttpSettings], *, routers: Sequence[Router] = (), **options: Any) -> None:
        # A path that is almost right is answered in the envelope, not sent elsewhere by the Host header it came with.
        super().__init__(redirect_slashes=False, openapi_url=None, docs_url=None, redoc_url=None, **options)
        self.router.route_class = Route
        self.router.default = _answer_no_route
        document = Router()
        document.get("/openapi.json", public=True, criticality="sheddable", include_in_schema=False)(_answer_document)
        # `include_router` would match each request twice. The document's own route comes last, being the least used.
        self.router.routes[:] = [route for router in (*routers, document) for route in router.routes]
        self.health = Health()
        self.load_shedder = LoadShedder(current)
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
    """What no route is for. Anybody may ask for it, so it is limited by address."""
    if scope["type"] == "http":
        await spend_as_stranger(Request(scope, receive, send))
    raise HTTPException(404)


async def _answer_document(request: Request) -> Response:
    """The OpenAPI document, for anybody; limited by address."""
    await spend_as_stranger(request)
    app: Application = request.app
    return Response(orjson.dumps(app.openapi()), media_type="application/json")
