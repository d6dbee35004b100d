"""The short way to a route: with what it asks for, as long as all of that is right, and without FastAPI's solver.

FastAPI finds out anew at each request what a route asks for, which takes longer than a cached read. Here a request that
is right is read with FastAPI's own fields. One that is not goes FastAPI's way, which finds the words for what is wrong.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import fields
from inspect import iscoroutinefunction, signature
from typing import Any, cast

from fastapi.dependencies.models import Dependant
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.params import Body
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

type _Call = Callable[..., Awaitable[Any]]
type _Validate = Callable[[Any], tuple[Any, Sequence[Any]]]

_READ = {"path_params", "header_params", "body_params", "dependencies", "request_param_name"}
_DESCRIBES = {"name", "call", "path", "use_cache", "scope"}
"""Fields of a `Dependant` that ask for nothing."""


class _NotRightError(Exception):
    """The request has to go the long way."""


def short_way(route: APIRoute) -> ASGIApp:
    """The route's application, with a short way for a route that asks for path, headers, a JSON body, the request, and
    what coroutine functions make of these, and answers with a `Response`. Any other route's is FastAPI's alone.
    """
    asked, usual = route.dependant, AsyncExitStackMiddleware(route.app)
    made = list(_made(asked))
    is_made_once = len(made) == len(set(made))  # FastAPI makes what is asked for twice once, and remembers it
    if (
        signature(route.endpoint).return_annotation is not Response
        or not is_made_once
        or not _can_be_read(asked, route)
    ):
        return usual

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            body = await request.body() if route.body_field else b""
        except ClientDisconnect as error:
            raise HTTPException(400) from error
        try:
            values = await _read(asked, request, body)
        except _NotRightError:
            await usual(scope, _given_first(body, receive), send)
            return
        response: Response = await route.endpoint(**values)
        await response(scope, receive, send)

    return app


def _can_be_read(asked: Dependant, route: APIRoute) -> bool:
    is_known = {field.name for field in fields(asked) if getattr(asked, field.name)} <= _READ | _DESCRIBES
    has_one_body = all(one is route.body_field and type(one.field_info) is Body for one in asked.body_params)
    return (
        is_known
        and has_one_body
        and all(iscoroutinefunction(needed.call) and _can_be_read(needed, route) for needed in asked.dependencies)
    )


def _made(asked: Dependant) -> Iterator[Callable[..., Any] | None]:
    """The functions that make what is asked for."""
    for needed in asked.dependencies:
        yield needed.call
        yield from _made(needed)


async def _read(asked: Dependant, request: Request, body: bytes) -> dict[str, Any]:
    """What is asked for, by name. Raises `_NotRightError` where any of it is missing or wrong."""
    values: dict[str, Any] = {}
    for field in asked.path_params:
        values[field.name] = _valid(field.validate, request.path_params[field.alias])
    for field in asked.header_params:
        values[field.name] = _valid(field.validate, request.headers.get(field.alias))
    for field in asked.body_params:
        values[field.name] = _valid(field.validate, _parsed(request, body))
    for needed in asked.dependencies:
        call = cast("_Call", needed.call)
        values[str(needed.name)] = await call(**await _read(needed, request, body))
    if asked.request_param_name:
        values[asked.request_param_name] = request
    return values


def _valid(validate: _Validate, given: Any) -> Any:
    value, wrong = validate(given)
    if wrong or given is None:
        raise _NotRightError
    return value


def _parsed(request: Request, body: bytes) -> Any:
    if request.headers.get("content-type") != "application/json":
        raise _NotRightError
    try:
        return json.loads(str(body, "utf-8"))  # of bytes it looks for the encoding first; other ones go the long way
    except (ValueError, RecursionError) as error:
        raise _NotRightError from error


def _given_first(body: bytes, receive: Receive) -> Receive:
    """A `receive` that begins with the body, which has been read."""
    is_given = False

    async def given_first() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return given_first
