"""How an error is answered: the envelope, or RFC 9457 when the caller's Accept asks for it. Counts what it renders."""

import math
import re
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import Counter
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from chassis.errors import ApiError, ErrorCode, ErrorDetail
from chassis.logging import get_logger, is_sensitive, put_on_canonical_line, redact, request_id_var

log = get_logger(__name__)

api_errors = Counter("api_errors", "Error answers, by catalogue code.", ["code", "route"])

_MAX_SHOWN = 100  # characters of a wrong value, or of a field's name, that are shown back
_MAX_DETAILS = 100  # more than any honest request has wrong: an answer must not be a multiple of what caused it
_PROBLEM_JSON = "application/problem+json"

# What the framework raises by itself, by status.
_FRAMEWORK_CODES = {
    400: ErrorCode.MALFORMED_REQUEST,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.PAYLOAD_TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
}


class Detail(BaseModel):
    field: str
    message: str
    received: str | None = None


class ErrorBody(BaseModel):
    code: str
    message: str
    details: list[Detail]
    documentation_url: str


class ErrorEnvelope(BaseModel):
    """What every error answer looks like."""

    error: ErrorBody
    request_id: str


def documented(*codes: ErrorCode) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of a route that may answer with these errors, beside those that every route may."""
    everywhere = (
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.VALIDATION_FAILED,
        ErrorCode.RATE_LIMITED,
        ErrorCode.INTERNAL_ERROR,
        ErrorCode.OVERLOADED,
        ErrorCode.DEADLINE_EXCEEDED,
    )
    by_status: dict[int | str, list[str]] = {}
    for code in (*everywhere, *codes):
        by_status.setdefault(code.value.status, []).append(code.name)
    return {
        status: {"model": ErrorEnvelope, "description": ", ".join(names)} for status, names in sorted(by_status.items())
    }


def install(app: FastAPI) -> None:
    """Let every error of this application, the framework's included, be answered by `render`."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)  # noqa: S101  the registration below says so; the signature cannot
        if error.code.value.status >= 500:  # noqa: PLR2004
            log.warning("request_not_served", code=error.code.name, reason=error.message)
        return render(request.scope, error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return render(request.scope, _from_validation(request, error.errors()))

    async def on_framework_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        response = render(request.scope, ApiError(_FRAMEWORK_CODES.get(error.status_code, ErrorCode.INTERNAL_ERROR)))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_framework_error)


def render(scope: Scope, error: ApiError) -> Response:
    """The answer to a caller, in the form that its Accept header asks for."""
    route = getattr(scope.get("route"), "path", "unmatched")
    api_errors.labels(error.code.name, route).inc()
    put_on_canonical_line(error_code=error.code.name)
    wants_problem = _wants_problem(Headers(scope=scope).getlist("accept"))
    body = _problem(error) if wants_problem else _envelope(error)
    response = Response(
        orjson.dumps(body),
        status_code=error.code.value.status,
        media_type="application/problem+json" if wants_problem else "application/json",
    )
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.code is ErrorCode.UNAUTHENTICATED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _envelope(error: ApiError) -> dict[str, Any]:
    return {
        "error": {
            "code": error.code.name,
            "message": error.message,
            "details": [_detail(detail) for detail in error.details],
            "documentation_url": error.code.documentation_url,
        },
        "request_id": request_id_var.get() or "",
    }


def _problem(error: ApiError) -> dict[str, Any]:
    return {
        "type": error.code.documentation_url,
        "title": error.code.value.message,
        "status": error.code.value.status,
        "detail": error.message,
        "code": error.code.name,
        "errors": [_detail(detail) for detail in error.details],
        "request_id": request_id_var.get() or "",
    }


def _detail(detail: ErrorDetail) -> dict[str, str]:
    received = {} if detail.received is None else {"received": detail.received}
    return {"field": detail.field, "message": detail.message, **received}


def _wants_problem(accept: Sequence[str]) -> bool:
    """Whether these Accept headers name RFC 9457's type, with any quality but 0 (RFC 9110, 12.5.1)."""
    ranges = [part.strip().lower() for value in accept for part in value.split(",")]
    return any(
        kind.strip() == _PROBLEM_JSON and not re.search(r";\s*q=0(\.0*)?\s*(;|$)", f";{parameters}")
        for kind, _, parameters in (part.partition(";") for part in ranges)
    )


def _from_validation(request: Request, problems: Sequence[Any]) -> ApiError:
    """All validation errors at once; a body that is no JSON at all is a malformed request."""
    if any(problem["type"] == "json_invalid" for problem in problems):
        return ApiError(ErrorCode.MALFORMED_REQUEST, "The body is not valid JSON.")
    if any(problem["loc"] == ("body",) and problem["type"] != "missing" for problem in problems) and not _is_json(
        request.headers.get("content-type", "")
    ):
        return ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    details = [_from_problem(problem) for problem in problems[:_MAX_DETAILS]]
    return ApiError(ErrorCode.VALIDATION_FAILED, details=details)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _from_problem(problem: Any) -> ErrorDetail:
    place, *path = problem["loc"]
    field = ".".join(str(part) for part in path) or str(place)
    # A whole object says nothing that the field's name does not, and may hold what is sensitive.
    shown = isinstance(problem.get("input"), str | int | float | bool) and not is_sensitive(field) and place != "header"
    return ErrorDetail(_show(field), problem["msg"], _show(str(problem["input"])) if shown else None)


def _show(text: str) -> str:
    """The caller's own text, fit to be sent back: without secrets, short, and without halves of surrogate pairs."""
    return str(redact(text))[:_MAX_SHOWN].encode(errors="backslashreplace").decode()
