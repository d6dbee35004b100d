"""FastAPI as this platform uses it: one frame around the routes, `RequestContext`, instead of the framework's seven."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from chassis.app.middleware import RequestContext
from chassis.app.routing import Route
from chassis.load_shedding import LoadShedder
from chassis.settings import HttpSettings


class Application(FastAPI):
    """An application whose every error is answered in the envelope; `current` returns the settings that are valid now.

    Middleware and handlers of exceptions that are added to it are not asked: each would be a frame that every request
    pays for. What surrounds a request belongs into `RequestContext`, how an error is answered into `error_rendering`.
    """

    def __init__(self, current: Callable[[], HttpSettings], **options: Any) -> None:
        # A path that is almost right is answered in the envelope, not sent elsewhere by the Host header it came with.
        super().__init__(redirect_slashes=False, docs_url=None, redoc_url=None, **options)
        self.router.route_class = Route
        self.state.load_shedder = LoadShedder(current)
        self._frame = RequestContext(self.router, current())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._frame(scope, receive, send)
