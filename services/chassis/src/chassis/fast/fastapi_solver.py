"""Replaces, for valid requests, FastAPI's `solve_dependencies`, the function that computes the arguments of a handler.

FastAPI needs more time to compute the arguments of a handler than the handler needs for a read from the cache.
`past_solver` computes the arguments from a valid request with FastAPI's own validators, and skips the rest of FastAPI's
work. FastAPI still handles an invalid request, because FastAPI writes the error messages. FastAPI also handles every
request to a route for which `_is_known` returns False.
"""

import json
from dataclasses import fields
from inspect import iscoroutinefunction, signature
from typing import Any

from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.params import Body
from fastapi.routing import APIRoute, serialize_response
from fastapi.utils import is_body_allowed_for_status_code
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_READ = {
    "path_params",
    "query_params",
    "header_params",
    "body_params",
    "dependencies",
    "request_param_name",
    "response_param_name",
}
_DESCRIBES = {"name", "call", "path", "use_cache", "scope"}
"""The fields of FastAPI's `Dependant` that only describe the dependant and need no value from the request."""
_SHAPES = ("include", "exclude", "exclude_unset", "exclude_defaults", "exclude_none")
"""The options of a route, named `response_model_…` in FastAPI, that this module does not support."""


class _InvalidError(Exception):
    """FastAPI has to handle the request, because a value is invalid or missing, or because this module cannot read the
    body.
    """


def past_solver(route: APIRoute) -> ASGIApp:
    """An ASGI app that replaces `route.app`: the app sends the same answers as `route.app` and uses less CPU time."""
    usual = route.app
    if not _is_known(route):
        return usual

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            body = await request.body() if route.body_field else b""
        except ClientDisconnect as error:
            raise HTTPException(400) from error
        solving = _Solving(request, body)
        try:
            solving.read(route.dependant)
        except _InvalidError:
            await usual(scope, _body_first(body, receive), send)
            return
        result = await route.endpoint(**await solving.arguments_of(route.dependant))
        response = result if isinstance(result, Response) else await _serialized(result, route, solving.response)
        await response(scope, receive, send)

    return answer


def _is_known(route: APIRoute) -> bool:
    """Whether this module can handle the route.

    The route's handler may take parameters from the path, the query, the headers and one JSON body. The handler may
    take the request, the response, and the results of dependencies that are coroutine functions. The handler must
    return a model or a `Response`.
    """
    returns_response = signature(route.endpoint).return_annotation is Response
    return (
        isinstance(route.response_class, DefaultPlaceholder)
        and (returns_response or route.response_field is not None)
        and not any(getattr(route, f"response_model_{shape}") for shape in _SHAPES)
        and _can_be_read(route.dependant, route)
    )


def _can_be_read(dependant: Dependant, route: APIRoute) -> bool:
    names = {field.name for field in fields(dependant) if getattr(dependant, field.name)}
    has_one_body = all(one is route.body_field and type(one.field_info) is Body for one in dependant.body_params)
    return (
        names <= _READ | _DESCRIBES
        and has_one_body
        and dependant.use_cache
        and iscoroutinefunction(dependant.call)
        and all(_can_be_read(needed, route) for needed in dependant.dependencies)
    )


class _Solving:
    """One request: the values that the handler and its dependencies take from the request, and the dependencies'
    results.

    `_Solving` reads and validates all values before it calls the first dependency. If a value is invalid, `_Solving`
    calls no dependency. FastAPI then handles the request, so each dependency runs only once.
    """

    __slots__ = ("_body", "_request", "_results", "_values", "response")

    def __init__(self, request: Request, body: bytes) -> None:
        self._request = request
        self._body = body
        self._values: dict[object, dict[str, Any]] = {}
        self._results: dict[object, Any] = {}
        self.response: Response | None = None

    def read(self, dependant: Dependant) -> None:
        """Read from the request all values that the function of `dependant`, and its dependencies, take as arguments.

        A `Dependant` is FastAPI's description of a handler or of a dependency. Raises `_InvalidError` if a value is
        missing or invalid.
        """
        values: dict[str, Any] = {}
        self._values[dependant.call] = values
        request = self._request
        for needed in dependant.dependencies:
            if needed.call not in self._values:
                self.read(needed)
        for field in dependant.path_params:
            values[field.name] = _valid(*field.validate(request.path_params.get(field.alias), {}, loc=("path",)))
        if dependant.query_params:
            values |= _valid(*request_params_to_args(dependant.query_params, request.query_params))
        if dependant.header_params:
            values |= _valid(*request_params_to_args(dependant.header_params, request.headers))
        for field in dependant.body_params:
            values[field.name] = _valid(*field.validate(self._parsed(), {}, loc=("body",)))
        if dependant.request_param_name:
            values[dependant.request_param_name] = request
        if dependant.response_param_name:
            if self.response is None:
                self.response = Response(status_code=0)  # 0 means that the handler has not set a status
                del self.response.headers["content-length"]
            values[dependant.response_param_name] = self.response

    async def arguments_of(self, dependant: Dependant) -> dict[str, Any]:
        """All arguments of the function of `dependant`, by name. Calls each dependency of this function once."""
        arguments = self._values[dependant.call]
        for needed in dependant.dependencies:
            call = needed.call
            if call not in self._results:
                assert call is not None  # noqa: S101  tells the type checker that every dependency has a function
                self._results[call] = await call(**await self.arguments_of(needed))
            if needed.name is not None:
                arguments[needed.name] = self._results[call]
        return arguments

    def _parsed(self) -> Any:
        if self._request.headers.get("content-type") != "application/json":
            raise _InvalidError
        try:
            return json.loads(self._body)
        except (ValueError, RecursionError) as error:
            raise _InvalidError from error


def _valid(values: Any, errors: Any) -> Any:
    if errors or values is None:
        raise _InvalidError
    return values


async def _serialized(model: Any, route: APIRoute, injected: Response | None) -> Response:
    """The answer with the model as FastAPI serialises it.

    `injected` is the response that the handler took as an argument. The answer gets the status and the headers that the
    handler set on it.
    """
    content = await serialize_response(
        field=route.response_field, response_content=model, by_alias=route.response_model_by_alias, dump_json=True
    )
    status = (injected and injected.status_code) or route.status_code or 200
    response = Response(content, status, media_type="application/json")
    if not is_body_allowed_for_status_code(status):
        response.body = b""
    if injected is not None:
        response.raw_headers.extend(injected.raw_headers)
    return response


def _body_first(body: bytes, receive: Receive) -> Receive:
    """A function that replaces `receive` and first returns the `body`, which was already read from `receive`."""
    is_returned = False

    async def body_first() -> Message:
        nonlocal is_returned
        if is_returned:
            return await receive()
        is_returned = True
        return {"type": "http.request", "body": body, "more_body": False}

    return body_first
