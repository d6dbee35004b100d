"""What webhook-ingest does: store each webhook once, then turn it into an event."""

from collections.abc import Mapping
from uuid import UUID

from chassis import outbox
from chassis.jobs import enqueue
from chassis.logging import get_logger
from chassis.pooling import log_after_commit
from pydantic import ValidationError
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from webhook_ingest.messages import (
    STREAM,
    ChargeFailed,
    ChargeSucceeded,
    ProviderObjectEvent,
    PublishEvent,
    RefundFailed,
    RefundSucceeded,
)
from webhook_ingest.models import PROVIDER_EVENT, Provider, ProviderEvent, ProviderEventStatus
from webhook_ingest.schemas import ProviderObjectPayload, ProviderPayload

log = get_logger(__name__)

# The payment provider's types. Of the other senders nobody here handles any.
_EVENTS: Mapping[str, type[ProviderObjectEvent]] = {
    "charge.succeeded": ChargeSucceeded,
    "charge.failed": ChargeFailed,
    "refund.succeeded": RefundSucceeded,
    "refund.failed": RefundFailed,
}


async def store_event(session: AsyncSession, *, provider: Provider, event_id: str, body: bytes) -> bool:
    """Protocol, row 7: the raw event and its job, unless it is there already. Whether it is new."""
    row_id = await session.scalar(
        insert(ProviderEvent)
        .values(provider=provider.value, event_id=event_id, body=body)
        .on_conflict_do_nothing()
        .returning(ProviderEvent.id)
    )
    if row_id is None:
        return False
    await enqueue(session, PublishEvent(id=row_id))
    return True


async def publish_event(session: AsyncSession, row_id: UUID) -> str | None:
    """Protocol, row 8: the event in the outbox. A type that nobody handles is kept and ignored.

    What cannot be read is dead until somebody asks again, after a fix of whatever reads it; returns what is wrong.
    """
    stored = (await session.scalars(select(ProviderEvent).where(ProviderEvent.id == row_id).with_for_update())).one()
    if stored.status == ProviderEventStatus.DEAD:
        await _move(session, stored, ProviderEventStatus.STORED, None)
    if stored.status != ProviderEventStatus.STORED:
        return None
    try:
        event = _read(stored)
    except ValidationError as error:
        problem = f"unreadable: {error.error_count()} problems"
        await _move(session, stored, ProviderEventStatus.DEAD, problem)
        return problem
    if event is None:
        await _move(session, stored, ProviderEventStatus.IGNORED, "unknown type")
        return None
    await _move(session, stored, ProviderEventStatus.PUBLISHED, None)
    await outbox.publish(session, event, stream=STREAM, aggregate_id=str(stored.id), aggregate_version=1)
    return None


def _read(stored: ProviderEvent) -> ProviderObjectEvent | None:
    """The event to publish; None for a type that nobody handles. Raises `ValidationError`."""
    if stored.provider != Provider.PAYMENT_PROVIDER:
        return None
    kind = _EVENTS.get(ProviderPayload.model_validate_json(stored.body).type)
    if kind is None:
        return None
    about = ProviderObjectPayload.model_validate_json(stored.body).data
    return kind(
        reference=about.reference,
        provider_id=about.id,
        object_version=about.object_version,
        amount=about.amount,
        raw_event_id=stored.event_id,
        failure_code=about.failure_code,
    )


async def _move(session: AsyncSession, event: ProviderEvent, target: ProviderEventStatus, reason: str | None) -> None:
    PROVIDER_EVENT.check(ProviderEventStatus(event.status), target)
    await session.execute(
        update(ProviderEvent).where(ProviderEvent.id == event.id).values(status=target.value, reason=reason)
    )
    write = log.error if target is ProviderEventStatus.DEAD else log.info
    log_after_commit(
        session,
        write,
        "provider_event_moved",
        provider=event.provider,
        event_id=event.event_id,
        status=target.value,
        reason=reason,
    )
