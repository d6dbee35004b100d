"""The use cases of webhook-ingest: store each webhook once, then publish it as an event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from chassis.events import outbox
from chassis.jobs import enqueue
from chassis.logging import get_logger
from chassis.pooling import Session, after_commit, log_after_commit
from chassis.pooling.statements import load_driver_statements
from chassis.webhooks import ProcessedResult, webhook_processed
from pydantic import ValidationError
from sqlalchemy import select, text, update

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

_SQL = load_driver_statements("webhook_ingest.sql", package="webhook_ingest")

_FORGET_DEAD_LETTER = text("DELETE FROM job WHERE name = :name AND status = 'dead' AND payload ->> 'id' = :id")


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredEvent:
    """A locked row of the table `provider_event`."""

    id: UUID
    provider: str
    event_id: str
    body: bytes
    status: str


class Redrivable(StrEnum):
    """The statuses of events that an operator may process again."""

    IGNORED = ProviderEventStatus.IGNORED.value
    DEAD = ProviderEventStatus.DEAD.value


# The payment provider's event types. No service consumes the events of the other providers.
_EVENTS: Mapping[str, type[ProviderObjectEvent]] = {
    "charge.succeeded": ChargeSucceeded,
    "charge.failed": ChargeFailed,
    "refund.succeeded": RefundSucceeded,
    "refund.failed": RefundFailed,
}


async def store_event(session: Session, *, provider: Provider, event_id: str, body: bytes) -> bool:
    """Step 7 of an order (docs/reference/protocol.md): store the raw event and its job, unless they are stored already.
    Returns whether the event is new.
    """
    row_id: UUID | None = await session.fetch_value(
        _SQL["store"], provider=provider.value, event_id=event_id, body=body
    )
    if row_id is None:
        return False
    await enqueue(session, PublishEvent(id=row_id))
    return True


async def publish_event(session: Session, row_id: UUID) -> str | None:
    """Step 8 of an order (docs/reference/protocol.md): publish the stored event to the outbox. Returns the problem if
    the event cannot be read, and None if it can be read.

    An event of an unknown type is marked `ignored`. An event that cannot be read is marked `dead`. Once the code can
    read the event, an operator replays the event's job or redrives the event.
    """
    (row,) = await session.fetch(_SQL["lock"], id=row_id)
    stored = _StoredEvent(**row)
    if stored.status == ProviderEventStatus.DEAD:
        await _move(session, stored, ProviderEventStatus.STORED, None)
        stored = replace(stored, status=ProviderEventStatus.STORED.value)
    if stored.status != ProviderEventStatus.STORED:
        return None
    try:
        event = _read(stored)
    except ValidationError as error:
        problem = f"unreadable: {error.error_count()} problems"
        await _move(session, stored, ProviderEventStatus.DEAD, problem)
        _count(session, stored, "unreadable")
        return problem
    if event is None:
        await _move(session, stored, ProviderEventStatus.IGNORED, "unknown type")
        _count(session, stored, "unknown_type")
        return None
    await _move(session, stored, ProviderEventStatus.PUBLISHED, None)
    _count(session, stored, "published")
    await outbox.publish(session, event, stream=STREAM, aggregate_id=str(stored.id), aggregate_version=1)
    return None


async def redrive(
    session: Session, *, which: Redrivable, provider: Provider | None, dry_run: bool
) -> Sequence[tuple[str, str]]:
    """Process the events with the status `which` once more, from their stored bodies. With a `provider`, process only
    this provider's events. Returns the provider and the id of each event. A dry run changes nothing.

    Each event gets a new job. If the event's earlier job is a dead letter, that dead letter is deleted.
    """
    query = select(ProviderEvent).where(ProviderEvent.status == which.value).order_by(ProviderEvent.id)
    if provider is not None:
        query = query.where(ProviderEvent.provider == provider.value)
    found = (await session.scalars(query.with_for_update())).all()
    for event in () if dry_run else found:
        await session.execute(
            update(ProviderEvent)
            .where(ProviderEvent.id == event.id)
            .values(status=ProviderEventStatus.STORED.value, reason=None)
        )
        await session.execute(_FORGET_DEAD_LETTER, {"name": PublishEvent.options.name, "id": str(event.id)})
        await enqueue(session, PublishEvent(id=event.id))
    return [(event.provider, event.event_id) for event in found]


def _count(session: Session, event: _StoredEvent, result: ProcessedResult) -> None:
    after_commit(session, webhook_processed.labels(event.provider, result).inc)


def _read(stored: _StoredEvent) -> ProviderObjectEvent | None:
    """The event to publish, or None for an event of an unknown type. Raises `ValidationError` for a body that cannot be
    read.
    """
    if stored.provider != Provider.PAYMENT_PROVIDER:
        return None
    kind = _EVENTS.get(ProviderPayload.model_validate_json(stored.body).type)
    if kind is None:
        return None
    charge_or_refund = ProviderObjectPayload.model_validate_json(stored.body).data
    return kind(
        reference=charge_or_refund.reference,
        provider_id=charge_or_refund.id,
        object_version=charge_or_refund.object_version,
        amount=charge_or_refund.amount,
        raw_event_id=stored.event_id,
        failure_code=charge_or_refund.failure_code,
    )


async def _move(session: Session, event: _StoredEvent, target: ProviderEventStatus, reason: str | None) -> None:
    PROVIDER_EVENT.check(ProviderEventStatus(event.status), target)
    await session.fetch(_SQL["move"], id=event.id, status=target.value, reason=reason)
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
