"""The short way to a route: with what it asks for, as long as all of that is right, and without FastAPI's solver.

FastAPI finds out anew at each request what a route asks for, which takes longer than a cached read. Here a request that
is right is read with FastAPI's own fields. One that is not goes FastAPI's way, which finds the words for what is wrong.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import fields
from inspect import iscoroutinefunction, signature
from typing import Any, NamedTuple, cast

from fastapi.dependencies.models import Dependant
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.params import Body
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Send

type Answer = Callable[[Request, Send], Awaitable[None]]
type _Call = Callable[..., Awaitable[Any]]
type _Validate = Callable[[Any], tuple[Any, Sequence[Any]]]

_READ = {"path_params", "header_params", "body_params", "dependencies", "request_param_name"}
_DESCRIBES = {"name", "call", "path", "use_cache", "scope"}
"""Fields of a `Dependant` that ask for nothing."""


class _NotRightError(Exception):
    """The request has to go the long way."""


def short_way(route: APIRoute) -> Answer:
    """What answers the route's requests, with a short way for a route that asks for path, headers, a JSON body, the
    request, and what coroutine functions make of these, and answers with a `Response`. Any other route's is FastAPI's.
    """
    usual = AsyncExitStackMiddleware(route.app)

    async def long(request: Request, send: Send) -> None:
        await usual(request.scope, request.receive, send)

    made = list(_made(route.dependant))
    is_made_once = len(made) == len(set(made))  # FastAPI makes what is asked for twice once, and remembers it
    if (
        signature(route.endpoint).return_annotation is not Response
        or not is_made_once
        or not _can_be_read(route.dependant, route)
    ):
        return long
    asked = _Asked.by(route.dependant)

    async def short(request: Request, send: Send) -> None:
        try:
            body = await request.body() if route.body_field else b""
        except ClientDisconnect as error:
            raise HTTPException(400) from error
        try:
            values = await _read(asked, request, body)
        except _NotRightError:
            await usual(request.scope, _given_first(body, request.receive), send)
            return
        response: Response = await route.endpoint(**values)
        await response(request.scope, request.receive, send)

    return short


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


class _Asked(NamedTuple):
    """What a function asks for, by its parameters' names, as it is found: a property of FastAPI's takes a call."""

    path: Sequence[tuple[str, str, _Validate]]
    headers: Sequence[tuple[str, str, _Validate]]
    body: Sequence[tuple[str, _Validate]]
    made: Sequence[tuple[str, _Call, "_Asked"]]
    request: str | None

    @classmethod
    def by(cls, dependant: Dependant) -> "_Asked":
        return cls(
            path=[(field.name, field.alias, field.validate) for field in dependant.path_params],
            headers=[(field.name, field.alias, field.validate) for field in dependant.header_params],
            body=[(field.name, field.validate) for field in dependant.body_params],
            made=[(str(one.name), cast("_Call", one.call), cls.by(one)) for one in dependant.dependencies],
            request=dependant.request_param_name,
        )


async def _read(asked: _Asked, request: Request, body: bytes) -> dict[str, Any]:
    """What is asked for, by name. Raises `_NotRightError` where any of it is missing or wrong."""
    values: dict[str, Any] = {}
    for name, alias, validate in asked.path:
        values[name] = _valid(validate, request.path_params[alias])
    for name, alias, validate in asked.headers:
        values[name] = _valid(validate, request.headers.get(alias))
    for name, validate in asked.body:
        values[name] = _valid(validate, _parsed(request, body))
    for name, make, needed in asked.made:
        values[name] = await make(**await _read(needed, request, body))
    if asked.request:
        values[asked.request] = request
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
