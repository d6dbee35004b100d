"""Routes that declare whom they let in, and whom first: whoever is refused is refused before the body is read.

A route that asks for no more than its path and the request is answered without FastAPI's solver of dependencies, which
takes longer than all that such a route does. Its declaration and its place in the OpenAPI document are those of any.
"""

from collections.abc import Awaitable, Callable
from dataclasses import fields
from inspect import iscoroutinefunction, signature
from typing import Any, cast

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response
from starlette.types import Receive, Scope, Send

from chassis.app.access import Access
from chassis.load_shedding import Criticality, LoadShedder

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
        if signature(self.endpoint).return_annotation is Response and _asks_little(self.dependant):
            self.app = request_response(self._answer)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        shedder: LoadShedder = scope["app"].state.load_shedder
        with shedder.place(self._criticality):
            if self._access is not None and scope["method"] in (self.methods or ()):  # or it is answered 405
                await self._access.check(Request(scope))
            await super().handle(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        """What the solver would do for a route that asks little."""
        asked = self.dependant
        values: dict[str, Any] = {}
        errors: list[Any] = []
        for field in asked.path_params:
            given = request.path_params[field.alias]
            values[field.name], wrong = field.validate(given, values, loc=("path", field.alias))
            errors += wrong
        if errors:
            raise RequestValidationError(errors)
        for needed in asked.dependencies:
            values[str(needed.name)] = await cast("_Make", needed.call)(request)
        if asked.request_param_name:
            values[asked.request_param_name] = request
        response: Response = await self.endpoint(**values)
        return response


type _Make = Callable[[Request], Awaitable[Any]]

_LITTLE = {"path_params", "dependencies", "request_param_name"}
_DESCRIBES = {"name", "call", "path", "use_cache", "scope"}
"""Fields of a `Dependant` that ask for nothing."""


def _asks_little(route: Dependant) -> bool:
    """Whether it needs its path, the request, and what is made of the request alone."""
    return _asked(route) <= _LITTLE and all(
        _asked(needed) == {"request_param_name"} and iscoroutinefunction(needed.call) for needed in route.dependencies
    )


def _asked(dependant: Dependant) -> set[str]:
    return {field.name for field in fields(dependant) if getattr(dependant, field.name)} - _DESCRIBES


class Router(APIRouter):
    """What a service's routes are declared on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=Route, generate_unique_id_function=_operation_id, **options)


def _operation_id(route: APIRoute) -> str:
    """Clients generated from the document get the function's name, not one made of path and method."""
    return route.name
