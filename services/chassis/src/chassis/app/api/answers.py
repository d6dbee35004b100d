"""The types that a handler may return: a model; `Json[Model]`, the JSON of a model from a cache; or
`StoredAnswer[Model]`, an answer that is stored under an idempotency key.

For each of these types the OpenAPI document shows the schema of the model.
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
    """The pair `(Json, Model)` or `(StoredAnswer, Model)`, read from the handler's return annotation. The pair is
    `(None, None)` for any other annotation.
    """
    annotation = signature(endpoint).return_annotation
    kind = get_origin(annotation)
    return (kind, get_args(annotation)[0]) if kind in (Json, StoredAnswer) else (None, None)


def written(
    endpoint: Callable[..., Awaitable[Any]], *, status: int, is_conditional: bool
) -> Callable[..., Awaitable[Response]]:
    """Wrap a handler that returns `Json` or `StoredAnswer`: the wrapper returns a `Response` with the same bytes."""

    @wraps(endpoint)
    async def write(**values: Any) -> Response:
        found = await endpoint(**values)
        if isinstance(found, StoredAnswer):
            return Response(found.body, found.status, media_type="application/json")
        if is_conditional:
            return ConditionalJson(found)
        return Response(found, status, media_type="application/json")

    return write
