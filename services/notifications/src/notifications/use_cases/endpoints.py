"""Creates, changes, disables and deletes clients' webhook endpoints, and rotates their secrets. A client that names
another client's endpoint gets a 404.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from chassis.calls.ssrf import DestinationRefused, Resolve, check_addresses, check_url
from chassis.config.settings import EgressSettings
from chassis.errors import ApiError, ErrorCode, ErrorDetail
from chassis.logging import get_logger
from chassis.pooling import Session, after_commit, log_after_commit
from chassis.retries import idempotency
from chassis.retries.idempotency import IdempotencyKey, StoredAnswer
from chassis.webhooks import new_secret, webhook_endpoints_disabled
from sqlalchemy import Select, func, insert, select, text, update

from notifications.models import WEBHOOK_DELIVERY, DeliveryStatus, WebhookDelivery, WebhookEndpoint
from notifications.schemas import CreateEndpoint, EndpointList, EndpointView, EndpointWithSecret, UpdateEndpoint
from notifications.use_cases.delivery_queue import LockedEndpoint
from notifications.use_cases.mails import write_notice

log = get_logger(__name__)

# The URL's query may hold a secret of the endpoint's owner. This mail goes to the owner, so the mail shows the whole
# URL.
_NOTICE = """We no longer send webhooks to {url}.

Why: {reason}

Pending webhooks will not be delivered. Once the endpoint works again, enable it:
PATCH /v1/webhook-endpoints/{id} with {{"enabled": true}}
"""
_LOCK_CLIENT = text("SELECT pg_advisory_xact_lock(hashtextextended('webhook_endpoint:' || :client_id, 0))")


async def check_destination(url: str, egress: EgressSettings, *, resolve: Resolve) -> None:
    """Raise `ApiError` (422, with the reason) unless webhooks may go to this URL. The function queries the DNS, so
    callers must call it outside a transaction.
    """
    try:
        await check_addresses(check_url(url, egress), egress, resolve=resolve)
    except DestinationRefused as error:
        # The text before an @ may be a password, so the answer does not repeat a URL with an @.
        detail = ErrorDetail("url", f"We cannot send there: {error}.", None if "@" in url else url)
        raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail]) from error


async def create_endpoint(
    session: Session, command: CreateEndpoint, *, client_id: str, key: IdempotencyKey, max_endpoints: int
) -> StoredAnswer:
    """Create an endpoint. Returns an answer with the endpoint and its secret, or the first answer if the idempotency
    key was used before. Raises `ApiError` (409) when the client has as many endpoints as allowed.
    """
    if (stored := await idempotency.find_answer(session, key)) is not None:
        return stored
    await session.execute(_LOCK_CLIENT, {"client_id": client_id})
    count = await session.scalar(select(func.count()).select_from(_of_client(client_id).subquery()))
    if (count or 0) >= max_endpoints:
        raise ApiError(ErrorCode.STATE_CONFLICT, f"A client has at most {max_endpoints} endpoints: delete one first.")
    endpoint = await session.scalar(
        insert(WebhookEndpoint)
        .values(
            client_id=client_id,
            url=command.url,
            events=command.events,
            is_enabled=command.enabled,
            contact_email=command.contact_email,
            secret=new_secret(),
        )
        .returning(WebhookEndpoint)
    )
    assert endpoint is not None  # noqa: S101  for the type checker: INSERT … RETURNING returns a row or raises
    log_after_commit(session, log.info, "webhook_endpoint_created", endpoint_id=endpoint.id)
    return await _answer_with_secret(session, endpoint, key, status=201)


async def list_endpoints(session: Session, *, client_id: str) -> EndpointList:
    """All endpoints of the client, oldest first. The list has no pages, because the number of a client's endpoints is
    limited.
    """
    endpoints = await session.scalars(_of_client(client_id).order_by(WebhookEndpoint.id))
    return EndpointList(items=[_view(endpoint) for endpoint in endpoints])


async def find_endpoint(session: Session, endpoint_id: UUID, *, client_id: str) -> EndpointView:
    """The endpoint with this id. Raises `ApiError` (404) if the client has no such endpoint."""
    return _view(await _own(session, _of_client(client_id).where(WebhookEndpoint.id == endpoint_id)))


async def update_endpoint(
    session: Session, endpoint_id: UUID, command: UpdateEndpoint, *, client_id: str
) -> EndpointView:
    """Change the fields that `command` contains. If the change disables the endpoint, its pending deliveries become
    `disabled`. Raises `ApiError` (404) for an unknown endpoint.
    """
    await _own_locked(session, endpoint_id, client_id)
    given = command.model_dump(exclude_none=True)
    if (enabled := given.pop("enabled", None)) is not None:
        given |= {"is_enabled": enabled, "disabled_reason": None}
    if enabled or "url" in given:  # earlier failures of the endpoint no longer count
        given |= {"failing_since": None, "is_suspect": False}
    endpoint = await _change(session, endpoint_id, given)
    if enabled is False:
        await settle_pending(session, endpoint_id, "the endpoint was disabled")
    return _view(endpoint)


async def delete_endpoint(session: Session, endpoint_id: UUID, *, client_id: str) -> None:
    """Delete an endpoint: erase its secrets, its contact's address, and the stored answers that contain a secret. Its
    pending deliveries become `disabled`; all its deliveries stay listed.

    Raises `ApiError` (404) for an unknown endpoint.
    """
    await _own_locked(session, endpoint_id, client_id)
    erased = dict.fromkeys(("secret", "old_secret", "old_secret_until", "contact_email"))
    await _change(session, endpoint_id, {"is_enabled": False, "deleted_at": func.now(), **erased})
    await idempotency.withdraw_answers(session, client=client_id, about=str(endpoint_id))
    await settle_pending(session, endpoint_id, "the endpoint was deleted")
    log_after_commit(session, log.info, "webhook_endpoint_deleted", endpoint_id=endpoint_id)


async def rotate_secret(
    session: Session, endpoint_id: UUID, *, client_id: str, key: IdempotencyKey, overlap: float
) -> StoredAnswer:
    """Replace the endpoint's secret. For `overlap` seconds, webhooks are signed with the replaced secret, too. A secret
    that was replaced earlier signs no more webhooks.

    Returns the first answer if the idempotency key was used before. Raises `ApiError` (404) for an unknown endpoint.
    """
    if (stored := await idempotency.find_answer(session, key)) is not None:
        return stored
    endpoint = await _own_locked(session, endpoint_id, client_id)
    until = func.now() + timedelta(seconds=overlap)
    values = {"secret": new_secret(), "old_secret": endpoint.secret, "old_secret_until": until}
    changed = await _change(session, endpoint_id, values)
    log_after_commit(session, log.info, "webhook_secret_rotated", endpoint_id=endpoint_id)
    return await _answer_with_secret(session, changed, key, status=200)


async def disable_endpoint(
    session: Session, endpoint: LockedEndpoint, cause: Literal["gone", "failing"], reason: str
) -> None:
    """Disable an endpoint that is gone or keeps failing, and mail the reason to its contact. The client may enable the
    endpoint again.
    """
    await _change(session, endpoint.id, {"is_enabled": False, "disabled_reason": reason})
    await settle_pending(session, endpoint.id, reason)
    if endpoint.contact_email is not None:
        await write_notice(
            session,
            client_id=endpoint.client_id,
            recipient=endpoint.contact_email,
            event_type="webhook_endpoint.disabled",
            subject="Your webhook endpoint was disabled",
            text=_NOTICE.format(url=endpoint.url, reason=reason, id=endpoint.id),
        )
    after_commit(session, webhook_endpoints_disabled.labels(cause).inc)
    log_after_commit(
        session,
        log.warning,
        "webhook_endpoint_disabled",
        endpoint_id=endpoint.id,
        client_id=endpoint.client_id,
        cause=cause,
        reason=reason,
        is_told=endpoint.contact_email is not None,
    )


async def settle_pending(session: Session, endpoint_id: UUID, reason: str) -> None:
    """Set the endpoint's pending deliveries to `disabled`. The caller must hold the lock on the endpoint's row."""
    disabled = DeliveryStatus.DISABLED
    await session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.status.in_(WEBHOOK_DELIVERY.sources(disabled))
        )
        .values(status=disabled.value, reason=reason, settled_at=func.now())
    )


def _of_client(client_id: str) -> Select[WebhookEndpoint]:
    return select(WebhookEndpoint).where(WebhookEndpoint.client_id == client_id, WebhookEndpoint.deleted_at.is_(None))


async def _own(session: Session, query: Select[WebhookEndpoint]) -> WebhookEndpoint:
    endpoint = (await session.scalars(query)).one_or_none()
    if endpoint is None:
        raise ApiError(ErrorCode.NOT_FOUND)
    return endpoint


async def _own_locked(session: Session, endpoint_id: UUID, client_id: str) -> WebhookEndpoint:
    """The client's endpoint, with a lock on its row. Inserts of deliveries are not blocked: they lock only the
    endpoint's key (`FOR KEY SHARE`), which this lock (`FOR NO KEY UPDATE`) allows.
    """
    query = _of_client(client_id).where(WebhookEndpoint.id == endpoint_id)
    return await _own(session, query.with_for_update(key_share=True))


async def _change(session: Session, endpoint_id: UUID, values: Mapping[str, Any]) -> WebhookEndpoint:
    changed = await session.scalars(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id)
        .values(**values, updated_at=func.now())
        .returning(WebhookEndpoint)
        .execution_options(populate_existing=True)
    )
    return changed.one()


async def _answer_with_secret(
    session: Session, endpoint: WebhookEndpoint, key: IdempotencyKey, *, status: int
) -> StoredAnswer:
    """The answer with the endpoint and its secret, which no other answer contains. The answer is stored under the
    idempotency key, because a client that did not receive the answer may repeat the request. The deletion of the
    endpoint also deletes the stored answer.
    """
    shown = EndpointWithSecret.model_validate(_view(endpoint).model_dump() | {"secret": endpoint.secret})
    answer = StoredAnswer(status, shown.model_dump_json().encode())
    await idempotency.store_answer(session, key, answer)
    return answer


def _view(endpoint: WebhookEndpoint) -> EndpointView:
    fields = {name: getattr(endpoint, name) for name in EndpointView.model_fields if name != "enabled"}
    return EndpointView.model_validate(fields | {"enabled": endpoint.is_enabled})
