"""Refunds: each attempt to refund a payment has its own row and its own idempotency key. At most one refund of a
payment is open or has succeeded.

A transaction that makes or moves a refund first locks the refund's payment, so these transactions run one at a time.
"""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from chassis.jobs import enqueue
from chassis.logging import get_logger
from chassis.pooling import Session, log_after_commit
from sqlalchemy import func, insert, select, update

from payments.messages import MakeRefund
from payments.models import REFUND, PaymentStatus, Refund, RefundStatus
from payments.use_cases.states import PaymentRow, lock, move
from payments.use_cases.windows import POST_WINDOW, PROOF_AFTER

log = get_logger(__name__)

# After this many failed refunds of one payment, no further refund is requested, and an operator must decide.
MAX_REFUNDS = 3


async def request_refund(session: Session, payment: PaymentRow) -> None:
    """Write a new refund and its job, unless a refund is open or has succeeded, or `MAX_REFUNDS` refunds have
    failed.
    """
    made = list(await session.scalars(select(Refund.status).where(Refund.payment_id == payment.id)))
    if any(status != RefundStatus.FAILED for status in made):
        return
    if len(made) >= MAX_REFUNDS:
        log.error("refund_given_up", payment_id=payment.id, refunds=len(made), amount=payment.amount)
        return
    refund_id = await session.scalar(
        insert(Refund).values(payment_id=payment.id, n=len(made) + 1, amount=payment.amount).returning(Refund.id)
    )
    assert refund_id is not None  # noqa: S101  for the type checker: INSERT … RETURNING returns a row or raises
    await enqueue(session, MakeRefund(refund_id=refund_id))
    log_after_commit(
        session, log.info, "refund_requested", payment_id=payment.id, refund_id=refund_id, amount=payment.amount
    )


async def refund_to_ask_for(session: Session, refund_id: UUID) -> Refund | None:
    """The refund that a job must request from the provider. Returns None if the refund's status has changed since the
    job was enqueued, or if the provider may soon forget the refund's idempotency key.
    """
    return await session.scalar(
        select(Refund).where(
            Refund.id == refund_id,
            Refund.status == RefundStatus.REQUESTED.value,
            # The first POST of the refund is sent after the row is created. So the provider still remembers the key
            # while the row is younger than `POST_WINDOW`.
            Refund.created_at > func.now() - POST_WINDOW,
        )
    )


@dataclass(frozen=True, slots=True)
class RefundReport:
    """The state of a refund, from the provider's answer, from an event or from reconciliation."""

    refund_id: UUID
    status: Literal["accepted", "succeeded", "failed"]
    provider_refund_id: str | None = None
    reason: str | None = None
    object_version: int | None = None  # the provider's count of the refund's changes; None if the provider sent none


async def apply_refund_report(session: Session, report: RefundReport) -> bool:
    """Step 13 of an order (docs/reference/protocol.md): apply a report about a refund. Returns whether the report
    changed the refund's state.

    Raises `LookupError` when there is no such refund.
    """
    target = {
        "accepted": RefundStatus.SUBMITTED,
        "succeeded": RefundStatus.SUCCEEDED,
        "failed": RefundStatus.FAILED,
    }[report.status]
    payment = await _lock_payment_of(session, report.refund_id)
    refund = await session.scalar(
        update(Refund)
        .where(
            Refund.id == report.refund_id,
            Refund.status.in_(REFUND.sources(target)),
            Refund.provider_version <= (version := func.coalesce(report.object_version, Refund.provider_version)),
        )
        .values(
            status=target.value,
            provider_refund_id=func.coalesce(Refund.provider_refund_id, report.provider_refund_id),
            provider_version=version,
            reason=report.reason,
            updated_at=func.now(),
        )
        .returning(Refund)
        .execution_options(populate_existing=True)
    )
    if refund is None:
        return False
    log_after_commit(
        session,
        log.info,
        "refund_moved",
        refund_id=refund.id,
        payment_id=payment.id,
        status=target.value,
        reason=refund.reason,
    )
    if target is RefundStatus.SUCCEEDED:
        await move(session, payment.id, PaymentStatus.REFUNDED, refund_id=refund.id)
    elif target is RefundStatus.FAILED:
        await request_refund(session, payment)
    return True


async def no_refund_found(session: Session, refund_id: UUID) -> bool:
    """Step 16 of an order (docs/reference/protocol.md): apply the report that the provider has no such refund. Returns
    whether the report changed the refund's status.

    The refund fails only if the provider never accepted the refund and no POST can still arrive at the provider.
    """
    payment = await _lock_payment_of(session, refund_id)
    refund = (
        await session.execute(
            select(Refund.status, (Refund.created_at < func.now() - PROOF_AFTER).label("is_over")).where(
                Refund.id == refund_id
            )
        )
    ).one()
    if refund.status == RefundStatus.SUBMITTED:
        log.error("refund_missing", refund_id=refund_id, payment_id=payment.id)
    if refund.status == RefundStatus.REQUESTED and refund.is_over:
        return await apply_refund_report(session, RefundReport(refund_id, "failed", reason="never_arrived"))
    return False


async def _lock_payment_of(session: Session, refund_id: UUID) -> PaymentRow:
    payment_id = await session.scalar(select(Refund.payment_id).where(Refund.id == refund_id))
    payment = None if payment_id is None else await lock(session, payment_id)
    if payment is None:
        raise LookupError(f"there is no refund {refund_id}")
    return payment
