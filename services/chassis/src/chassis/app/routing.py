"""Routes that declare whom they let in, and whom first: whoever is refused is refused before the body is read."""

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from chassis.app.access import Access
from chassis.app.limits import spend_as_stranger
from chassis.app.short_way import short_way
from chassis.load_shedding import Criticality

if TYPE_CHECKING:
    from chassis.app.application import Application

_KEY = "x-criticality"


def criticality(of_route: Criticality) -> dict[str, Any]:
    """A route's `openapi_extra`: who loses what when it is refused. Without one a route is `default`.

    `critical`: money or an event that a customer waits for. `sheddable`: a view that can be asked for again.
    """
    return {_KEY: of_route}


class Route(APIRoute):
    """A route that takes a place of the process, and then looks who calls, before it looks at anything else."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        extra: dict[str, Any] = self.openapi_extra or {}
        self._criticality: Criticality = extra.get(_KEY, "default")
        self._access = Access.declared_in(self.openapi_extra)
        self._answer = short_way(self)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        if scope["method"] not in (self.methods or ()):
            await spend_as_stranger(request)  # no key has been looked at
            raise HTTPException(405)
        app: Application = scope["app"]
        with app.load_shedder.place(self._criticality):
            if self._access is not None:
                await self._access.check(request)
            await self._answer(request, send)


class Router(APIRouter):
    """What a service's routes are declared on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=Route, generate_unique_id_function=_operation_id, **options)


def _operation_id(route: APIRoute) -> str:
    """Clients generated from the document get the function's name, not one made of path and method."""
    return route.name
