"""How the simulators read JSON, say no, and say nothing."""

import json
from dataclasses import dataclass
from typing import NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from simulators.process import log

_MAX_DIGITS = 15  # of a number that SQLite takes


class RefusedError(Exception):
    """Ends a request with `{"error": {"code", "message", "field"?}}` and a status."""

    def __init__(self, status: int, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": code, "message": message} | ({"field": field} if field else {})}
        self.code = code


class InvalidError(RefusedError):
    """422: one field of the request is missing, unknown or out of range."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(422, "invalid_request", f"{field}: {problem}", field=field)


async def read_object(request: Request) -> dict[str, object]:
    """The body as a JSON object; 400 when it is anything else."""
    try:
        payload = json.loads(await request.body())
        json.dumps(payload, ensure_ascii=False).encode()  # a lone surrogate can be neither stored nor answered
    except (ValueError, RecursionError):
        raise RefusedError(400, "invalid_json", "the body is not JSON") from None
    if not isinstance(payload, dict):
        raise RefusedError(400, "invalid_json", "the body is not a JSON object")
    return payload


def strings(payload: dict[str, object], name: str) -> list[str]:
    """The list of strings that is the payload's only field."""
    unknown = next((field for field in payload if field != name), None)
    if unknown is not None:
        raise InvalidError(unknown, "is not a field of this request")
    match payload.get(name):
        case list(values) if all(isinstance(value, str) for value in values):
            return values
    raise InvalidError(name, "must be a list of strings")


@dataclass(frozen=True, slots=True)
class Page:
    """Up to `limit` rows after that number: who reads them all need not hold them all. -1 is no limit."""

    after: int = 0
    limit: int = -1


def page_of(request: Request) -> Page:
    """From `?after=&limit=`; everything without them."""
    values = {}
    for name in ("after", "limit"):
        if (given := request.query_params.get(name)) is not None:
            if not given.isascii() or not given.isdigit() or len(given) > _MAX_DIGITS:
                raise InvalidError(name, "must be a whole number")
            values[name] = int(given)
    return Page(**values)


async def never_answer(request: Request) -> NoReturn:
    """Hold the request until its client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    raise ClientDisconnect


async def close_unanswered(request: Request) -> NoReturn:
    """Close the connection: the client cannot tell what became of its request."""
    request.state.connection.close()
    await never_answer(request)


async def answer_refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusedError):
        raise error
    log("request_refused", method=request.method, path=request.url.path, status=error.status, code=error.code)
    # A 503 has no Retry-After: it is an outage, of which nothing knows the end, and not a refusal of too many calls.
    headers = {401: {"WWW-Authenticate": "Bearer"}}.get(error.status)
    return JSONResponse(error.body, error.status, headers)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """No such path, wrong method, body too large: the router's own answers, as JSON."""
    if not isinstance(error, HTTPException):
        raise error
    code = error.detail.lower().replace(" ", "_")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse({"error": {"code": code, "message": message}}, error.status_code, error.headers)


async def answer_nobody(request: Request, _error: Exception) -> Response:
    """The client left, or was left; nobody sees this answer."""
    log("request_unanswered", method=request.method, path=request.url.path)
    return Response(status_code=400)


EXCEPTION_HANDLERS = {
    RefusedError: answer_refused,
    HTTPException: answer_http_error,
    ClientDisconnect: answer_nobody,
}
