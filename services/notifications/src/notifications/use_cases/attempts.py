"""Attempts at webhook deliveries: one transaction begins an attempt, and another transaction records its answer."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from chassis.jobs import enqueue
from chassis.logging import get_logger
from chassis.pooling import Session
from chassis.webhooks import AttemptAnswer, DeliveryDecision, has_failed_for_long
from sqlalchemy import update

from notifications.messages import DeliverWebhook
from notifications.models import DeliveryStatus, WebhookEndpoint
from notifications.use_cases import endpoints
from notifications.use_cases.delivery_queue import SQL, LockedEndpoint, lock_queue, look_when_due

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that the database records as begun. `number` is 1 for the first attempt at a delivery."""

    delivery_id: UUID
    endpoint_id: UUID
    number: int
    url: str
    body: bytes
    secret: str
    old_secrets: tuple[str, ...]
    traceparent: str | None


async def begin_attempt(
    session: Session, endpoint_id: UUID, *, lease: float, take_slot: Callable[[], object]
) -> Attempt | None:
    """Begin the attempt that is due at an endpoint: record and return the attempt. Returns None if no delivery is due.

    For `lease` seconds no other attempt at this delivery begins. If the answer to the attempt is not recorded by the
    end of the lease, the attempt counts as lost. If the endpoint is suspect (its latest attempt failed or was slow),
    `take_slot` is called first. If `take_slot` raises an error, no attempt begins.
    """
    endpoint = await lock_queue(session, endpoint_id)
    if not endpoint.is_enabled:  # deliveries may have been written while the endpoint was being disabled
        await endpoints.settle_pending(session, endpoint_id, "the endpoint is disabled")
        return None
    if endpoint.is_suspect:
        take_slot()
    begun = await session.fetch(SQL["begin_attempt"], endpoint_id=endpoint_id, lease=timedelta(seconds=lease))
    if not begun:
        # The endpoint's next delivery is not due yet, so a later job must look at this endpoint again. Several jobs may
        # come here at once. These jobs use the same unique key, so they enqueue only one later job.
        await look_when_due(session, endpoint, unique_key=str(endpoint_id))
        return None
    (delivery,) = begun
    assert endpoint.secret is not None  # noqa: S101  only a deleted endpoint has no secret
    return Attempt(
        delivery_id=delivery["delivery_id"],
        endpoint_id=endpoint.id,
        number=delivery["number"],
        url=endpoint.url,
        body=delivery["body"].encode(),
        secret=endpoint.secret,
        old_secrets=() if endpoint.old_secret is None else (endpoint.old_secret,),
        traceparent=delivery["traceparent"],
    )


async def postpone(session: Session, endpoint_id: UUID, *, delay: float) -> None:
    """Enqueue a job that looks at the endpoint's queue in `delay` seconds. Because of the unique key, only one such job
    waits, even if several jobs find no free slot.
    """
    await enqueue(session, DeliverWebhook(endpoint_id=endpoint_id), unique_key=str(endpoint_id), delay=delay)


async def record_attempt(
    session: Session,
    attempt: Attempt,
    answer: AttemptAnswer,
    decision: DeliveryDecision,
    *,
    suspect: bool,
    disable_after: float,
) -> None:
    """Record the answer to an attempt, and enqueue a job for the delivery that is first in the queue now.

    An endpoint is disabled if it answered 410, or if all attempts at it have failed for `disable_after` seconds. If the
    delivery is no longer pending, or if a later attempt at this delivery has begun, the answer is dropped.
    """
    endpoint = await lock_queue(session, attempt.endpoint_id)
    if await _settle(session, attempt, answer, decision):
        _log(attempt, answer, decision)
        await _update_endpoint(session, endpoint, answer, suspect=suspect, disable_after=disable_after)
    await look_when_due(session, endpoint)


async def _settle(session: Session, attempt: Attempt, answer: AttemptAnswer, decision: DeliveryDecision) -> bool:
    """Write the delivery's next state. Returns False if a later attempt has begun, or if the delivery is no longer
    pending.
    """
    written = await session.fetch(
        SQL["record_attempt"],
        delivery_id=attempt.delivery_id,
        number=attempt.number,
        status=DeliveryStatus(decision.state).value,
        last_status=answer.status,
        reason=answer.reason,
        delay=timedelta(seconds=decision.delay),
    )
    return bool(written)


async def _update_endpoint(
    session: Session,
    endpoint: LockedEndpoint,
    answer: AttemptAnswer,
    *,
    suspect: bool,
    disable_after: float,
) -> None:
    """Record whether the endpoint is suspect (its latest attempt failed or was slow), and the time since which all
    attempts have failed. Disable the endpoint if it answered 410 (gone) or has failed for too long.
    """
    failing_since = None if answer.result == "delivered" else endpoint.failing_since or endpoint.now
    if (endpoint.is_suspect, endpoint.failing_since) != (suspect, failing_since):
        await session.execute(
            update(WebhookEndpoint)
            .where(WebhookEndpoint.id == endpoint.id)
            .values(is_suspect=suspect, failing_since=failing_since)
        )
    if answer.result == "gone":
        await endpoints.disable_endpoint(session, endpoint, "gone", answer.reason or "")
    elif endpoint.is_enabled and has_failed_for_long(failing_since, now=endpoint.now, disable_after=disable_after):
        reason = f"every attempt since {failing_since:%Y-%m-%d %H:%M} UTC failed, the last one because: {answer.reason}"
        await endpoints.disable_endpoint(session, endpoint, "failing", reason)


def _log(attempt: Attempt, answer: AttemptAnswer, decision: DeliveryDecision) -> None:
    # A dead delivery is logged as an error, because the customer loses an event. A disabled delivery is logged as a
    # warning, because its endpoint accepts no more deliveries.
    write = {"delivered": log.info, "dead": log.error}.get(decision.state, log.warning)
    write(
        "webhook_attempted",
        delivery_id=attempt.delivery_id,
        endpoint_id=attempt.endpoint_id,
        number=attempt.number,
        result=answer.result,
        http_status=answer.status,
        reason=answer.reason,
        status=decision.state,
        retry_in_seconds=round(decision.delay, 1),
    )
