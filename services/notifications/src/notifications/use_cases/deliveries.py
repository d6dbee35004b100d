"""Deliveries of webhooks: one queue per endpoint, of which only the first may be sent.

Whoever works on a queue (begins an attempt, records one, gives up or redelivers) first locks the endpoint's row, so
that each sees what the other did. As long as a delivery is pending, a job will look at its queue: the one that wrote
it, or the one that recorded the attempt before, or the one whose attempt is under way.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import ApiError, ErrorCode
from chassis.jobs import enqueue
from chassis.logging import get_logger
from chassis.pooling.paging import belongs_to, newest_of
from chassis.telemetry import current_traceparent
from chassis.webhooks import AttemptAnswer, Verdict, has_failed_for_long
from pydantic import BaseModel
from sqlalchemy import Select, any_, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from notifications.messages import DeliverWebhook, OrderEvent
from notifications.models import WEBHOOK_DELIVERY, DeliveryStatus, WebhookDelivery, WebhookEndpoint
from notifications.schemas import DeliveryPage, DeliveryView, Status
from notifications.use_cases import endpoints

log = get_logger(__name__)

_NEXT_IN_SEQUENCE = text("SELECT nextval(pg_get_serial_sequence('webhook_delivery', 'sequence'))")


class _Data(BaseModel):
    order_id: UUID
    version: int
    amount: int
    currency: str
    reason: str | None


class _Body(BaseModel):
    """What a customer gets: Standard Webhooks' payload, with the event's id. Mail addresses stay here."""

    id: UUID
    type: str
    timestamp: datetime
    data: _Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that is recorded as begun; `number` counts from 1."""

    delivery_id: UUID
    endpoint_id: UUID
    number: int
    url: str
    body: bytes
    secret: str
    old_secrets: tuple[str, ...]
    traceparent: str | None


async def write_deliveries(
    session: AsyncSession, event: OrderEvent, *, event_id: UUID, version: int, occurred_at: datetime
) -> None:
    """Protocol, row 14: a delivery for each endpoint of the client that listens to this event, and its job."""
    listening = await session.scalars(
        select(WebhookEndpoint.id)
        .where(
            WebhookEndpoint.client_id == event.client_id,
            WebhookEndpoint.is_enabled,
            any_(WebhookEndpoint.events) == event.options.type,
        )
        .order_by(WebhookEndpoint.id)
    )
    data = _Data(version=version, **event.model_dump(include=_Data.model_fields.keys() - {"version"}))
    body = _Body(id=event_id, type=event.options.type, timestamp=occurred_at, data=data).model_dump_json()
    for endpoint_id in listening.all():
        await session.execute(
            insert(WebhookDelivery).values(
                endpoint_id=endpoint_id,
                client_id=event.client_id,
                event_id=event_id,
                event_type=event.options.type,
                order_id=event.order_id,
                body=body,
                traceparent=current_traceparent(),
            )
        )
        # Without a unique key: a job that waits already may be claimed just before this transaction commits.
        await enqueue(session, DeliverWebhook(endpoint_id=endpoint_id))


async def begin_attempt(session: AsyncSession, endpoint_id: UUID, *, lease: float) -> Attempt | None:
    """The attempt that is due at an endpoint, recorded before it is made; None when nothing is to be sent now.

    Nobody else begins another for `lease` seconds, by when it must have ended or been lost.
    """
    endpoint, now = await _lock(session, endpoint_id)
    if not endpoint.is_enabled:  # written while it was being disabled
        await endpoints.settle_pending(session, endpoint_id, "the endpoint is disabled")
        return None
    first = await session.scalar(_first(endpoint_id))
    if first is None:
        return None
    if first.next_attempt_at > now:
        # Of all that find it not due yet, one looks again.
        await _look_again(session, first, now, unique_key=str(endpoint_id))
        return None
    number = await session.scalar(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == first.id)
        .values(attempts=WebhookDelivery.attempts + 1, next_attempt_at=func.now() + timedelta(seconds=lease))
        .returning(WebhookDelivery.attempts)
    )
    return _attempt(endpoint, first, number=number or 1, now=now)


async def is_suspect(session: AsyncSession, endpoint_id: UUID) -> bool:
    """Whether the endpoint's latest attempt failed or took long."""
    return bool(await session.scalar(select(WebhookEndpoint.is_suspect).where(WebhookEndpoint.id == endpoint_id)))


async def postpone(session: AsyncSession, endpoint_id: UUID, *, delay: float) -> None:
    """Of all that found no place for this endpoint, one looks again in `delay` seconds."""
    await enqueue(session, DeliverWebhook(endpoint_id=endpoint_id), unique_key=str(endpoint_id), delay=delay)


async def record_attempt(
    session: AsyncSession,
    attempt: Attempt,
    answer: AttemptAnswer,
    verdict: Verdict,
    *,
    suspect: bool,
    disable_after: float,
) -> None:
    """What came of an attempt; and a job for whoever is first in the queue now. An endpoint that is gone is disabled,
    and so is one that has done nothing but fail for `disable_after` seconds.

    Changes nothing but that when the delivery was settled meanwhile, or given to another attempt.
    """
    endpoint, now = await _lock(session, attempt.endpoint_id)
    status = DeliveryStatus(verdict.state)
    is_settled = status is not DeliveryStatus.PENDING
    recorded = await session.scalar(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == attempt.delivery_id,
            WebhookDelivery.status == DeliveryStatus.PENDING.value,
            WebhookDelivery.attempts == attempt.number,
        )
        .values(
            status=status.value,
            last_status=answer.status,
            reason=answer.reason,
            next_attempt_at=func.now() + timedelta(seconds=verdict.delay),
            settled_at=func.now() if is_settled else None,
        )
        .returning(WebhookDelivery.id)
    )
    if recorded is not None:
        _log(attempt, answer, verdict)
        failing_since = None if answer.result == "delivered" else endpoint.failing_since or now
        if (endpoint.is_suspect, endpoint.failing_since) != (suspect, failing_since):
            await session.execute(
                update(WebhookEndpoint)
                .where(WebhookEndpoint.id == attempt.endpoint_id)
                .values(is_suspect=suspect, failing_since=failing_since)
            )
        if status is DeliveryStatus.DISABLED:
            await endpoints.disable_endpoint(session, endpoint, "gone", answer.reason or "")
        elif endpoint.is_enabled and has_failed_for_long(failing_since, now=now, disable_after=disable_after):
            reason = (
                f"every attempt since {failing_since:%Y-%m-%d %H:%M} UTC failed, the last one because: {answer.reason}"
            )
            await endpoints.disable_endpoint(session, endpoint, "failing", reason)
    if (first := await session.scalar(_first(attempt.endpoint_id))) is not None:
        await _look_again(session, first, now)


async def list_deliveries(
    session: AsyncSession,
    *,
    client_id: str,
    endpoint_id: UUID | None,
    status: Status | None,
    limit: int,
    cursor: UUID | None,
) -> DeliveryPage:
    """A client's deliveries, newest first. The cursor is the last id of the page before."""
    which = [] if endpoint_id is None else [WebhookDelivery.endpoint_id == endpoint_id]
    which += [] if status is None else [WebhookDelivery.status == status]
    query = newest_of(WebhookDelivery, WebhookDelivery.client_id, client_id, *which, before=cursor, limit=limit + 1)
    found = list(await session.scalars(query))
    shown = found[:limit]
    return DeliveryPage(
        items=[_view(delivery) for delivery in shown], next_cursor=shown[-1].id if len(found) > limit else None
    )


async def find_delivery(session: AsyncSession, delivery_id: UUID, *, client_id: str) -> DeliveryView:
    """Raises `ApiError` (404)."""
    return _view(await _own(session, delivery_id, client_id))


async def redeliver(session: AsyncSession, delivery_id: UUID, *, client_id: str) -> DeliveryView:
    """A dead delivery goes to the end of its endpoint's queue, with its id and all attempts anew.

    One that is pending stays as it is. Raises `ApiError`: 404, or 409 when it is neither or its endpoint is disabled.
    """
    found = await _own(session, delivery_id, client_id)
    endpoint, _ = await _lock(session, found.endpoint_id)
    if not endpoint.is_enabled:
        raise ApiError(ErrorCode.STATE_CONFLICT, "The endpoint is disabled.")
    pending = DeliveryStatus.PENDING
    moved = await session.scalar(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.status.in_(WEBHOOK_DELIVERY.sources(pending)))
        .values(
            status=pending.value,
            sequence=await session.scalar(_NEXT_IN_SEQUENCE),
            attempts=0,
            next_attempt_at=func.now(),
            settled_at=None,
        )
        .returning(WebhookDelivery)
        .execution_options(populate_existing=True)
    )
    if moved is not None:
        await enqueue(session, DeliverWebhook(endpoint_id=endpoint.id))
        return _view(moved)
    unmoved = await _own(session, delivery_id, client_id)
    if unmoved.status != pending:
        raise ApiError(ErrorCode.STATE_CONFLICT, f"The delivery is {unmoved.status}, not dead.")
    return _view(unmoved)


async def _lock(session: AsyncSession, endpoint_id: UUID) -> tuple[WebhookEndpoint, datetime]:
    """The endpoint and this transaction's time. New deliveries may still be written: they need only that it stays."""
    row = await session.execute(
        select(WebhookEndpoint, func.now())
        .where(WebhookEndpoint.id == endpoint_id)
        .with_for_update(key_share=True, of=WebhookEndpoint)
    )
    endpoint, now = row.one()
    return endpoint, now


def _first(endpoint_id: UUID) -> Select[WebhookDelivery]:
    """The only one of an endpoint's queue that may be sent: customers hear of one order's events in order."""
    return (
        select(WebhookDelivery)
        .where(WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.status == DeliveryStatus.PENDING.value)
        .order_by(WebhookDelivery.sequence)
        .limit(1)
        .execution_options(populate_existing=True)
    )


async def _look_again(
    session: AsyncSession, first: WebhookDelivery, now: datetime, *, unique_key: str | None = None
) -> None:
    delay = max(0.0, (first.next_attempt_at - now).total_seconds())
    await enqueue(session, DeliverWebhook(endpoint_id=first.endpoint_id), unique_key=unique_key, delay=delay)


def _attempt(endpoint: WebhookEndpoint, delivery: WebhookDelivery, *, number: int, now: datetime) -> Attempt:
    assert endpoint.secret is not None  # noqa: S101  an endpoint that is not deleted has one
    overlaps = endpoint.old_secret_until is not None and endpoint.old_secret_until > now
    return Attempt(
        delivery_id=delivery.id,
        endpoint_id=endpoint.id,
        number=number,
        url=endpoint.url,
        body=delivery.body.encode(),
        secret=endpoint.secret,
        old_secrets=(endpoint.old_secret,) if overlaps and endpoint.old_secret else (),
        traceparent=delivery.traceparent,
    )


def _log(attempt: Attempt, answer: AttemptAnswer, verdict: Verdict) -> None:
    # A customer that wants no more has lost nothing; one whose delivery is dead has.
    write = {"delivered": log.info, "dead": log.error}.get(verdict.state, log.warning)
    write(
        "webhook_attempted",
        delivery_id=attempt.delivery_id,
        endpoint_id=attempt.endpoint_id,
        number=attempt.number,
        result=answer.result,
        http_status=answer.status,
        reason=answer.reason,
        status=verdict.state,
        retry_in_seconds=round(verdict.delay, 1),
    )


async def _own(session: AsyncSession, delivery_id: UUID, client_id: str) -> WebhookDelivery:
    query = select(WebhookDelivery).where(
        WebhookDelivery.id == delivery_id, belongs_to(WebhookDelivery.client_id, client_id)
    )
    delivery = (await session.scalars(query.execution_options(populate_existing=True))).one_or_none()
    if delivery is None:
        raise ApiError(ErrorCode.NOT_FOUND)
    return delivery


def _view(delivery: WebhookDelivery) -> DeliveryView:
    fields = {name: getattr(delivery, name) for name in DeliveryView.model_fields if name != "event"}
    is_pending = delivery.status == DeliveryStatus.PENDING
    return DeliveryView.model_validate(
        fields | {"event": delivery.event_type, "next_attempt_at": delivery.next_attempt_at if is_pending else None}
    )
