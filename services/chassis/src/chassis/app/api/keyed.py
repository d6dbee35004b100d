"""The idempotency key as a route's parameter. `chassis.retries.idempotency` stores the answer to the first request with
a key, and sends the same answer to a repeated request.
"""

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
    """The caller's idempotency key, with a fingerprint (a hash) of the request."""
    return idempotency_key(
        caller_of(request).id, header, method=request.method, path=request.scope["path"], body=await request.body()
    )


Keyed = Annotated[IdempotencyKey, Depends(keyed)]
"""The type of a handler's parameter that receives the idempotency key, which the caller must send. For a route with
such a parameter, the OpenAPI document lists the errors of idempotency keys.
"""
