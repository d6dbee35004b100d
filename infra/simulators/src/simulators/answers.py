"""How the simulators read JSON, say no, and say nothing."""

import json
from typing import NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from simulators.process import log


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
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(error.status)
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
