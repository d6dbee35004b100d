"""The public API of webhook-ingest: providers post here. Signed, so that no key of ours is needed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from chassis.app.error_rendering import documented
from chassis.app.resources import ApiResources, resources
from chassis.errors import ErrorCode, InvalidSignature
from chassis.webhooks import verify, webhook_ack_duration, webhook_received
from fastapi import APIRouter, Depends, Request

from webhook_ingest import use_cases
from webhook_ingest.schemas import Received

PAYMENT_PROVIDER = "payment-provider"

router = APIRouter(prefix="/v1/webhooks", responses=documented())


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources(ApiResources):
    """What the routes are given by the composition root; `secrets` maps a provider to its valid secrets."""

    secrets: Mapping[str, Sequence[str]]


Given = Annotated[Resources, Depends(resources)]


@router.post(
    "/payment-provider",
    responses=documented(ErrorCode.SIGNATURE_INVALID, ErrorCode.PAYLOAD_TOO_LARGE),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}},
)
async def receive_payment_provider(request: Request, given: Given) -> Received:
    """A webhook in the Standard Webhooks format: verified over its raw bytes, stored once, answered; then a job."""
    started = time.perf_counter()
    body = await request.body()
    try:
        webhook = verify(request.headers.items(), body, given.secrets[PAYMENT_PROVIDER], now=time.time())
    except InvalidSignature:
        webhook_received.labels(PAYMENT_PROVIDER, "bad_signature").inc()
        raise
    async with given.database.transaction() as session:
        is_new = await use_cases.store_event(session, provider=PAYMENT_PROVIDER, event_id=webhook.id, body=body)
    webhook_received.labels(PAYMENT_PROVIDER, "accepted" if is_new else "duplicate").inc()
    webhook_ack_duration.labels(PAYMENT_PROVIDER).observe(time.perf_counter() - started)
    return Received(status="accepted" if is_new else "duplicate")
