"""Error answers: in our JSON envelope (an object with `error` and `request_id`), or in the format of RFC 9457 when the
caller's Accept header prefers this format.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_fields_from_routes
from prometheus_client import Counter
from pydantic import TypeAdapter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from chassis.errors import DOCUMENTATION_URL, ApiError, ErrorCode, ErrorDetail
from chassis.errors.answers import answer
from chassis.logging import get_logger, is_sensitive, put_on_canonical_line, request_id_var, shown_back
from chassis.retries import idempotency

log = get_logger(__name__)

api_errors = Counter("api_errors", "Error answers, by error code.", ["code", "route"])

_MAX_SHOWN = 100  # an answer repeats at most this many characters of an invalid value or of a field's name
_MAX_DETAILS = 100
"""The largest number of details in an error answer; each invalid field has one. Without this limit, a small request
could cause a large answer.
"""
_MAX_MESSAGE = 300
"""The largest number of characters of an error answer's message. Our own messages are shorter, but a message of
Pydantic may quote a long value.
"""
_NEVER_QUOTES_VALUE = frozenset(
    {"missing", "extra_forbidden", "string_type", "string_too_short", "string_too_long", "string_pattern_mismatch"}
)

_METHOD_NOT_ALLOWED = 405
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

DOCUMENTATION_KEY = "holdfast.documentation_url"
"""The key under which a request's ASGI scope holds the URL of the page that explains the error codes."""


EXPECTED = (ApiError, RequestValidationError, HTTPException)
"""Exceptions that a route or the framework raises to answer with an error. Any other exception is unexpected: it is
logged, and the caller gets a 500.
"""


def answer_to(scope: Scope, error: ApiError | RequestValidationError | HTTPException) -> Response:
    """The error answer for an exception of one of the types in `EXPECTED`."""
    if isinstance(error, ApiError):
        if error.code.value.status >= 500:  # noqa: PLR2004
            log.warning("request_not_served", code=error.code.name, reason=str(error))
        return render(scope, error)
    request = Request(scope)
    if isinstance(error, RequestValidationError):
        return render(scope, _from_validation(request, error.errors()))
    response = render(scope, ApiError(ErrorCode.of_status(error.status_code)))
    response.headers.update(error.headers or {})
    if error.status_code == _METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(_allowed(request))
    return response


def _allowed(request: Request) -> list[str]:
    """The methods that the routes of the request's path accept, for the Allow header. FastAPI itself would name only
    the methods of the first route with this path.
    """
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def render(scope: Scope, error: ApiError) -> Response:
    """The error answer, in the format that the caller's Accept header prefers."""
    route = getattr(scope.get("route"), "path", "unmatched")
    api_errors.labels(error.code.name, route).inc()
    put_on_canonical_line(error_code=error.code.name)
    shortened = ApiError(
        error.code,
        error.message if error.message == error.code.value.message else shown_back(error.message, _MAX_MESSAGE),
        details=[_fit(detail, marked_fields(scope["app"])) for detail in error.details],
        retry_after=error.retry_after,
    )
    found = answer(
        shortened,
        request_id=request_id_var.get() or "",
        accept=Headers(scope=scope).getlist("accept"),
        documentation=scope.get(DOCUMENTATION_KEY, DOCUMENTATION_URL),
    )
    return Response(orjson.dumps(found.body), found.status, found.headers)


def _fit(detail: ErrorDetail, marked: AbstractSet[str]) -> ErrorDetail:
    """The detail with shortened texts. The value is omitted if its field, or a field around it, may be secret."""
    is_hidden = detail.received is None or _is_hidden(detail.field, marked)
    received = None if is_hidden else shown_back(detail.received or "", _MAX_SHOWN)
    return ErrorDetail(shown_back(detail.field, _MAX_SHOWN), shown_back(detail.message, _MAX_MESSAGE), received)


def _is_hidden(field: str, marked: AbstractSet[str]) -> bool:
    """Whether the value of `field` may be secret. A name that is longer than the names of our fields was made up by the
    caller. Such a field counts as secret. Its name is not passed to `is_sensitive`, which caches each name: long names
    would fill the memory.
    """
    return len(field) > _MAX_MESSAGE or is_sensitive(field) or not marked.isdisjoint(field.split("."))


def marked_fields(app: FastAPI) -> AbstractSet[str]:
    """The names of the fields that any schema of this application marks as `writeOnly`, OpenAPI's mark of a secret.

    If one schema marks a field, answers omit the values of all fields with this name: it is better to omit a harmless
    value than to repeat a password. The first call generates the schemas, which takes some milliseconds.
    """
    found: AbstractSet[str] | None = getattr(app.state, "write_only", None)
    if found is None:
        found = app.state.write_only = frozenset(_write_only(app))
    return found


def _write_only(app: FastAPI) -> Iterator[str]:
    """The names of all parameters and properties of the application that are marked as secret.

    The function reads Pydantic's schemas. FastAPI's OpenAPI document contains the same schemas, but takes ten times as
    long.
    """
    fields = get_fields_from_routes(app.routes)
    schemas, document = TypeAdapter.json_schemas(
        [(number, field.mode, field._type_adapter) for number, field in enumerate(fields)]  # noqa: SLF001  FastAPI has built this adapter
    )
    yield from (field.alias for field, schema in zip(fields, schemas.values(), strict=True) if _is_marked(schema))
    yield from (name for name, schema in _properties(document) if _is_marked(schema))


def _properties(node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All properties of all objects in a JSON schema."""
    if isinstance(node, Mapping):
        properties = node.get("properties")
        if isinstance(properties, Mapping):
            yield from ((name, schema) for name, schema in properties.items() if isinstance(schema, Mapping))
    if isinstance(node, Mapping | list):
        for inner in node.values() if isinstance(node, Mapping) else node:
            yield from _properties(inner)


def _is_marked(schema: Mapping[str, Any]) -> bool:
    """Whether the schema itself, the schema of its list items, or one of its `anyOf` alternatives is `writeOnly`.
    Pydantic generates an `anyOf` for `SecretStr | None`.
    """
    inner = [one for one in (*schema.get("anyOf", ()), schema.get("items")) if isinstance(one, Mapping)]
    return schema.get("writeOnly") is True or any(_is_marked(one) for one in inner)


def _from_validation(request: Request, problems: Sequence[Any]) -> ApiError:
    """One error for all problems that Pydantic found. A body that is not valid JSON gets the error
    MALFORMED_REQUEST.
    """
    if any(problem["loc"] == ("header", idempotency.HEADER) for problem in problems):
        return ApiError(ErrorCode.IDEMPOTENCY_KEY_MISSING)
    if any(problem["type"] == "json_invalid" for problem in problems):
        return ApiError(ErrorCode.MALFORMED_REQUEST, "The body is not valid JSON.")
    if any(problem["loc"] == ("body",) and problem["type"] != "missing" for problem in problems) and not _is_json(
        request.headers.get("content-type", "")
    ):
        return ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    marked = marked_fields(request.app)
    details = [_from_problem(problem, marked) for problem in problems[:_MAX_DETAILS]]
    return ApiError(ErrorCode.VALIDATION_FAILED, details=details)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _from_problem(problem: Any, marked: AbstractSet[str]) -> ErrorDetail:
    """The error detail for one problem that Pydantic found.

    The detail omits the value of a header, which may hold credentials. It omits the value of an unknown field, because
    `pasword` may be a misspelt `password`. It also omits objects, and the whole body.
    """
    location, *path = problem["loc"]
    field = ".".join(str(part) for part in path) or str(location)
    is_secret = location == "header" or _is_hidden(field, marked)
    # Only the messages of the types in `_NEVER_QUOTES_VALUE` are sure not to quote the value. The message about a wrong
    # tag of a union, for example, quotes the tag.
    message = problem["msg"] if not is_secret or problem["type"] in _NEVER_QUOTES_VALUE else "This value is not valid."
    is_ours = bool(path) and problem["type"] != "extra_forbidden"
    is_shown = is_ours and not is_secret and isinstance(problem.get("input"), str | int | float | bool)
    return ErrorDetail(field, message, str(problem["input"]) if is_shown else None)
