"""The idempotency key as a route's parameter. `chassis.retries.idempotency` stores the answers."""

from typing import Annotated

from fastapi import Depends, Header, Request

from chassis.app.api.access import caller_of
from chassis.retries import idempotency
from chassis.retries.idempotency import IdempotencyKey, idempotency_key

_IdempotencyHeader = Annotated[
    str,
    Header(
        alias=idempotency.HEADER,
        min_length=1,
        max_length=idempotency.MAX_KEY_LENGTH,
        description="Send a new key with each new request, and the same key to repeat a request safely.",
    ),
]


async def keyed(request: Request, header: _IdempotencyHeader) -> IdempotencyKey:
    """The caller's key, with a fingerprint of the request."""
    return idempotency_key(
        caller_of(request).id, header, method=request.method, path=request.scope["path"], body=await request.body()
    )


Keyed = Annotated[IdempotencyKey, Depends(keyed)]
"""A route's parameter: the key that the caller must send. The OpenAPI document then lists the errors of idempotency
keys for the route.
"""
