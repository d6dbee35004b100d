"""What a handler returns: a model, `Json[Model]` from a cache, or `StoredAnswer[Model]`, kept under an idempotency key.

The OpenAPI document shows the model in each case.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import signature
from typing import Any, get_args, get_origin

from starlette.responses import Response

from chassis.app.api.conditional import ConditionalJson
from chassis.caching import Json
from chassis.retries.idempotency import StoredAnswer


def returns(endpoint: Callable[..., Any]) -> tuple[Any, Any]:
    """`Json` or `StoredAnswer` and the model in it, by the handler's annotation; None and None for anything else."""
    annotation = signature(endpoint).return_annotation
    kind = get_origin(annotation)
    return (kind, get_args(annotation)[0]) if kind in (Json, StoredAnswer) else (None, None)


def written(
    endpoint: Callable[..., Awaitable[Any]], *, status: int, is_conditional: bool
) -> Callable[..., Awaitable[Response]]:
    """The handler, whose `Json` or `StoredAnswer` becomes the `Response` of it: the bytes as they are."""

    @wraps(endpoint)
    async def write(**values: Any) -> Response:
        found = await endpoint(**values)
        if isinstance(found, StoredAnswer):
            return Response(found.body, found.status, media_type="application/json")
        if is_conditional:
            return ConditionalJson(found)
        return Response(found, status, media_type="application/json")

    return write
