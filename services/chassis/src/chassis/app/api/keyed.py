"""The idempotency key as a route's parameter. `chassis.retries.idempotency` does the rest."""

from typing import Annotated

from fastapi import Depends, Header, Request, Response

from chassis.app.api.access import caller_of
from chassis.retries import idempotency
from chassis.retries.idempotency import IdempotencyKey, StoredAnswer, idempotency_key

_IdempotencyHeader = Annotated[
    str,
    Header(
        alias=idempotency.HEADER,
        min_length=1,
        max_length=idempotency.MAX_KEY_LENGTH,
        description="A new one for each new request, the same one to repeat it safely.",
    ),
]


async def keyed(request: Request, header: _IdempotencyHeader) -> IdempotencyKey:
    """The caller's key, with a fingerprint of the request that it stands for."""
    return idempotency_key(
        caller_of(request).id, header, method=request.method, path=request.scope["path"], body=await request.body()
    )


Keyed = Annotated[IdempotencyKey, Depends(keyed)]
"""A route's parameter: the key that its caller must send. The route's document then names the errors of keys."""


def answer_with(answer: StoredAnswer) -> Response:
    """The answer that is stored under a key: the same bytes for each repetition."""
    return Response(answer.body, status_code=answer.status, media_type="application/json")
