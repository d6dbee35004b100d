"""The public API of webhook-ingest, to which providers post webhooks. Providers sign their requests, so they need no
API key.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

from chassis.app.api import Router, opened
from chassis.app.api.limits import limits_of, spend, spend_as_stranger
from chassis.errors import ApiError, ErrorCode, InvalidSignature
from chassis.pooling import Database
from chassis.rate_limiting import Policy
from chassis.webhooks import VERIFIERS, ReceivedResult, Verifier, webhook_ack_duration, webhook_received
from fastapi import Depends, Path, Request
from starlette.exceptions import HTTPException

from webhook_ingest import use_cases
from webhook_ingest.models import Provider
from webhook_ingest.schemas import Received

_VERIFIERS: Mapping[Provider, Verifier] = {
    Provider.PAYMENT_PROVIDER: VERIFIERS["standard"],
    Provider.STRIPE: VERIFIERS["stripe"],
    Provider.GITHUB: VERIFIERS["github"],
}

_UNREAD: Mapping[int, ReceivedResult] = {408: "too_slow", 413: "too_large"}

router = Router(prefix="/v1/webhooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The resources that the routes use, opened by the composition root in `api.py`.

    `secrets` returns the secrets of each provider that are valid now. An operator may rotate the secrets at any time.
    """

    database: Database
    secrets: Callable[[], Mapping[Provider, Sequence[str]]]


Given = Annotated[Resources, Depends(opened(Resources))]
# The OpenAPI document lists the providers, but the parameter accepts any text, so that an unknown provider gets a 404
# and not a 422.
ProviderName = Annotated[str, Path(json_schema_extra={"enum": [provider.value for provider in Provider]})]


@router.post(
    "/{provider}",
    public=True,
    criticality="critical",
    errors=[ErrorCode.SIGNATURE_INVALID, ErrorCode.NOT_FOUND, ErrorCode.RATE_LIMITED],
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}},
)
async def receive_webhook(provider: ProviderName, request: Request, given: Given) -> Received:
    """Receive a webhook: verify the signature over its raw bytes, store the webhook once and answer. A job processes
    the webhook later.

    `payment-provider` signs as Standard Webhooks defines; `stripe` and `github` use their own formats. The answer is a
    404 for a provider without configured secrets.
    """
    started = time.perf_counter()
    secrets = given.secrets()
    sender = _configured(provider, secrets)
    if sender is None:
        await spend_as_stranger(request)
        raise ApiError(ErrorCode.NOT_FOUND)
    with _counting(sender) as count_as:
        body = await request.body()
        try:
            webhook = _VERIFIERS[sender](request.headers.items(), body, secrets[sender], now=time.time())
        except InvalidSignature as error:
            count_as(error.problem)
            # Only a webhook with an invalid signature counts against these limits. So a stranger that sends forged
            # webhooks does not use up a limit of the provider's own webhooks.
            await spend_as_stranger(request)
            await spend(request, f"provider:{sender}", Policy.of("bad_credentials", limits_of(request).bad_credentials))
            raise
        async with given.database.transaction() as session:
            is_new = await use_cases.store_event(session, provider=sender, event_id=webhook.id, body=body)
        status: Literal["accepted", "duplicate"] = "accepted" if is_new else "duplicate"
        count_as(status)
    webhook_ack_duration.labels(sender).observe(time.perf_counter() - started)
    return Received(status=status)


@contextmanager
def _counting(sender: Provider) -> Iterator[Callable[[ReceivedResult], None]]:
    """Count a webhook once, with the result that the `with` block reports. If the block reports no result, the result
    follows from the exception that ended the block.
    """
    results: list[ReceivedResult] = []
    try:
        yield results.append
    except HTTPException as error:
        results.append(_UNREAD.get(error.status_code, "failed"))
        raise
    finally:
        webhook_received.labels(sender, results[0] if results else "failed").inc()


def _configured(name: str, secrets: Mapping[Provider, Sequence[str]]) -> Provider | None:
    """The provider with this name; None when no secrets are configured for the provider."""
    return next((provider for provider, valid in secrets.items() if provider == name and valid), None)
