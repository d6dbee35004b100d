"""The public API of the notifications service: mails, and customers' webhooks."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from chassis.app.api import Caller, Keyed, Router, opened
from chassis.calls.ssrf import Resolve
from chassis.errors import ErrorCode
from chassis.pooling import Database
from chassis.retries.idempotency import StoredAnswer, find_answer
from fastapi import Depends, Query

from notifications import use_cases
from notifications.schemas import (
    MAX_PAGE,
    CreateEndpoint,
    DeliveryPage,
    DeliveryView,
    EndpointList,
    EndpointView,
    EndpointWithSecret,
    MailList,
    Status,
    UpdateEndpoint,
)
from notifications.settings import WebhookSettings
from notifications.use_cases import deliveries, endpoints

SET_URL_COST = 5
"""The units that a request takes from the caller's rate limit if it sets the URL of an endpoint. Such a request costs
more than others, because our resolver looks up a host name that the caller chooses.
"""

router = Router(prefix="/v1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The resources that the routes use, opened by the composition root in `api.py`."""

    database: Database
    webhooks: WebhookSettings
    resolve: Resolve


Given = Annotated[Resources, Depends(opened(Resources))]


@router.get("/mails", access="mails:read", criticality="sheddable")
async def list_mails(order_id: Annotated[UUID, Query()], caller: Caller, given: Given) -> MailList:
    """All mails about one of the caller's orders, in any status."""
    async with given.database.read() as session:
        return await use_cases.list_mails(session, client_id=caller.id, order_id=order_id)


@router.post(
    "/webhook-endpoints",
    access="webhooks:manage",
    cost=SET_URL_COST,
    errors=[ErrorCode.NOT_FOUND, ErrorCode.STATE_CONFLICT],
    status_code=201,
)
async def create_webhook_endpoint(
    body: CreateEndpoint, caller: Caller, given: Given, key: Keyed
) -> StoredAnswer[EndpointWithSecret]:
    """Register an endpoint for the caller's orders. Only this answer contains the secret with which webhooks to the
    endpoint are signed.
    """
    async with given.database.transaction() as session:
        answer = await find_answer(session, key)
    if answer is not None:  # a repeated request gets the stored answer even if the host no longer resolves
        return answer
    await endpoints.check_destination(body.url, given.webhooks.egress, resolve=given.resolve)
    limit = given.webhooks.max_endpoints
    async with given.database.transaction() as session:
        return await endpoints.create_endpoint(session, body, client_id=caller.id, key=key, max_endpoints=limit)


@router.get("/webhook-endpoints", access="webhooks:manage", criticality="sheddable")
async def list_webhook_endpoints(caller: Caller, given: Given) -> EndpointList:
    """The caller's endpoints, oldest first."""
    async with given.database.read() as session:
        return await endpoints.list_endpoints(session, client_id=caller.id)


@router.get("/webhook-endpoints/{endpoint_id}", access="webhooks:manage", errors=[ErrorCode.NOT_FOUND])
async def get_webhook_endpoint(endpoint_id: UUID, caller: Caller, given: Given) -> EndpointView:
    """One of the caller's endpoints."""
    async with given.database.read() as session:
        return await endpoints.find_endpoint(session, endpoint_id, client_id=caller.id)


@router.patch(
    "/webhook-endpoints/{endpoint_id}", access="webhooks:manage", cost=SET_URL_COST, errors=[ErrorCode.NOT_FOUND]
)
async def update_webhook_endpoint(
    endpoint_id: UUID, body: UpdateEndpoint, caller: Caller, given: Given
) -> EndpointView:
    """Change an endpoint. If you disable the endpoint, its pending deliveries are dropped, and later events make no
    deliveries until you enable the endpoint again.
    """
    if body.url is not None:
        await endpoints.check_destination(body.url, given.webhooks.egress, resolve=given.resolve)
    async with given.database.transaction() as session:
        return await endpoints.update_endpoint(session, endpoint_id, body, client_id=caller.id)


@router.delete(
    "/webhook-endpoints/{endpoint_id}", access="webhooks:manage", errors=[ErrorCode.NOT_FOUND], status_code=204
)
async def delete_webhook_endpoint(endpoint_id: UUID, caller: Caller, given: Given) -> None:
    """Delete an endpoint and its secrets. Its deliveries stay listed, but pending deliveries are not sent."""
    async with given.database.transaction() as session:
        await endpoints.delete_endpoint(session, endpoint_id, client_id=caller.id)


@router.post(
    "/webhook-endpoints/{endpoint_id}/rotate-secret",
    access="webhooks:manage",
    errors=[ErrorCode.NOT_FOUND],
)
async def rotate_webhook_secret(
    endpoint_id: UUID, caller: Caller, given: Given, key: Keyed
) -> StoredAnswer[EndpointWithSecret]:
    """Replace the secret of an endpoint. For a limited time each webhook is signed with both secrets. During this time
    accept either signature, and afterwards only the signature of the new secret.
    """
    overlap = given.webhooks.secret_overlap
    async with given.database.transaction() as session:
        return await endpoints.rotate_secret(session, endpoint_id, client_id=caller.id, key=key, overlap=overlap)


@router.get("/deliveries", access="webhooks:manage", criticality="sheddable")
async def list_deliveries(
    caller: Caller,
    given: Given,
    endpoint_id: Annotated[UUID | None, Query()] = None,
    status: Annotated[Status | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    cursor: Annotated[UUID | None, Query()] = None,
) -> DeliveryPage:
    """The deliveries to the caller's endpoints, newest first, in pages."""
    async with given.database.read() as session:
        return await deliveries.list_deliveries(
            session, client_id=caller.id, endpoint_id=endpoint_id, status=status, limit=limit, cursor=cursor
        )


@router.get("/deliveries/{delivery_id}", access="webhooks:manage", errors=[ErrorCode.NOT_FOUND])
async def get_delivery(delivery_id: UUID, caller: Caller, given: Given) -> DeliveryView:
    """One delivery to one of the caller's endpoints."""
    async with given.database.read() as session:
        return await deliveries.find_delivery(session, delivery_id, client_id=caller.id)


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    access="webhooks:manage",
    errors=[ErrorCode.NOT_FOUND, ErrorCode.STATE_CONFLICT],
    status_code=202,
)
async def redeliver(delivery_id: UUID, caller: Caller, given: Given) -> DeliveryView:
    """Send a dead delivery again, under the same webhook id, after the endpoint's pending deliveries. The request is
    safe to repeat.
    """
    async with given.database.transaction() as session:
        return await deliveries.redeliver(session, delivery_id, client_id=caller.id)
