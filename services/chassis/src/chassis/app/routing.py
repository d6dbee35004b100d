"""Routes that load shedding knows: each says how critical it is, and is refused before its body is read."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from chassis.load_shedding import Criticality, LoadShedder

_KEY = "x-criticality"


def criticality(of_route: Criticality) -> dict[str, Any]:
    """A route's `openapi_extra`: who loses what when it is refused. Without one a route is `default`.

    `critical`: money or an event that a customer waits for. `sheddable`: a view that can be asked for again.
    """
    return {_KEY: of_route}


class Route(APIRoute):
    """A route that takes a place of the process before anything of the request is looked at but path and method."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        extra: dict[str, Any] = self.openapi_extra or {}
        self._criticality: Criticality = extra.get(_KEY, "default")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        shedder: LoadShedder = scope["app"].state.load_shedder
        with shedder.place(self._criticality):
            await super().handle(scope, receive, send)


class Router(APIRouter):
    """What a service's routes are declared on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=Route, **options)
