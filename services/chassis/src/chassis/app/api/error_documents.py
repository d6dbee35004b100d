"""Errors in the OpenAPI document: each route lists the error codes that it may answer with, grouped by HTTP status."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, Field

from chassis.errors import ErrorCode
from chassis.errors.answers import PROBLEM_JSON

type ErrorCodeName = Annotated[
    str,
    Field(
        description="New codes may be added. For an unknown code, decide by the status and by `retryable`.",
        json_schema_extra={"enum": [code.name for code in ErrorCode], "x-extensible": True},
    ),
]

# The server, `RequestContext` and the database may cause these errors on any route.
_ALWAYS = (
    ErrorCode.MALFORMED_REQUEST,
    ErrorCode.VALIDATION_FAILED,
    ErrorCode.REQUEST_TIMEOUT,
    ErrorCode.PAYLOAD_TOO_LARGE,
    ErrorCode.URI_TOO_LONG,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.HEADERS_TOO_LARGE,
    ErrorCode.INTERNAL_ERROR,
    ErrorCode.DEPENDENCY_UNAVAILABLE,
    ErrorCode.OVERLOADED,
    ErrorCode.SHUTTING_DOWN,
    ErrorCode.DEADLINE_EXCEEDED,
)
KEYED = (
    ErrorCode.IDEMPOTENCY_KEY_MISSING,
    ErrorCode.IDEMPOTENCY_KEY_IN_PROGRESS,
    ErrorCode.IDEMPOTENCY_KEY_REUSED,
)
"""The additional error codes of routes that require an idempotency key."""
_WITH_KEY = (ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN, ErrorCode.RATE_LIMITED)

_RETRY_AFTER = {
    "description": "Seconds to wait before the request is repeated.",
    "schema": {"type": "integer", "minimum": 1},
}


class Detail(BaseModel):
    """One invalid field. `received` is absent when the value that was sent may be secret."""

    field: str
    message: str
    received: str | None = None


class ErrorBody(BaseModel):
    code: ErrorCodeName
    retryable: bool = Field(description="Whether the same request may succeed later, after Retry-After.")
    message: str
    details: list[Detail]
    documentation_url: str


class ErrorEnvelope(BaseModel):
    """The body of every error answer."""

    error: ErrorBody
    request_id: str


class Problem(BaseModel):
    """The body of an error answer to a caller that sends `Accept: application/problem+json` (RFC 9457)."""

    type: str = Field(description="The code's documentation.")
    title: str
    status: int
    detail: str
    code: ErrorCodeName
    retryable: bool
    errors: list[Detail]
    request_id: str


def documented(*codes: ErrorCode, needs_key: bool = True) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of a route that may answer with the errors `codes`. The errors that every route may answer
    with are added.
    """
    by_status: dict[int, list[ErrorCode]] = {}
    for code in (*_ALWAYS, *(_WITH_KEY if needs_key else ()), *codes):
        by_status.setdefault(code.value.status, []).append(code)
    return {status: _response(found) for status, found in sorted(by_status.items())}


def _response(codes: Iterable[ErrorCode]) -> dict[str, Any]:
    found = list(dict.fromkeys(codes))
    response = {
        "description": " ".join(f"{code.name}: {code.value.message}" for code in found),
        "content": {
            PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}},
            "application/json": {"schema": {"$ref": "#/components/schemas/ErrorEnvelope"}},
        },
        "x-error-codes": [code.name for code in found],
    }
    if any(code.value.retryable for code in found):
        is_always = all(code.value.retryable for code in found)
        response["headers"] = {"Retry-After": _RETRY_AFTER | ({"required": True} if is_always else {})}
    return response


def describe_errors(document: dict[str, Any]) -> None:
    """Add the schemas of error answers to the OpenAPI document: the responses that `documented` returns refer to these
    schemas. With `model=` in the responses, FastAPI would build a validator for each status of each route.
    """
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in (ErrorEnvelope, Problem):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, found in {**schema.pop("$defs"), model.__name__: schema}.items():
            schemas.setdefault(name, found)
