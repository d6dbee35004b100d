"""Refunding: a row and a key of its own for each try, and at most one that is alive or done."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from chassis.jobs import enqueue
from chassis.logging import get_logger
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from payments.messages import MakeRefund
from payments.models import REFUND, Payment, PaymentStatus, Refund, RefundStatus
from payments.use_cases.states import move, read_payment

log = get_logger(__name__)

MAX_REFUNDS = 3  # rows, each with a key of its own; then somebody has to look


async def request_refund(session: AsyncSession, payment: Payment) -> None:
    """A new refund with a key of its own, unless one is alive or done already."""
    number = select(func.count() + 1).select_from(Refund).where(Refund.payment_id == payment.id)
    refund_id = await session.scalar(
        upsert(Refund)
        .values(payment_id=payment.id, n=number.scalar_subquery(), amount=payment.amount)
        .on_conflict_do_nothing()
        .returning(Refund.id)
    )
    if refund_id is not None:
        await enqueue(session, MakeRefund(refund_id=refund_id), unique_key=str(refund_id))
        log.info("refund_requested", payment_id=payment.id, refund_id=refund_id, amount=payment.amount)


async def read_refund(session: AsyncSession, refund_id: UUID) -> Refund:
    """The refund that a job is about; it exists, since the job committed with it."""
    return (await session.scalars(select(Refund).where(Refund.id == refund_id))).one()


@dataclass(frozen=True, slots=True)
class RefundReport:
    """What became of a refund, wherever that was learned."""

    refund_id: UUID
    status: Literal["accepted", "succeeded", "failed"]
    provider_refund_id: str | None = None
    reason: str | None = None


async def apply_refund_report(session: AsyncSession, report: RefundReport) -> bool:
    """Protocol, row 13. Whether it changed a state. Raises `LookupError` for a refund that is not ours."""
    target = {
        "accepted": RefundStatus.SUBMITTED,
        "succeeded": RefundStatus.SUCCEEDED,
        "failed": RefundStatus.FAILED,
    }[report.status]
    refund = await session.scalar(
        update(Refund)
        .where(Refund.id == report.refund_id, Refund.status.in_(REFUND.sources(target)))
        .values(
            status=target.value,
            provider_refund_id=func.coalesce(Refund.provider_refund_id, report.provider_refund_id),
            reason=report.reason,
            updated_at=func.now(),
        )
        .returning(Refund)
        .execution_options(populate_existing=True)
    )
    if refund is None:
        await _require_refund(session, report.refund_id)
        return False
    log.info("refund_moved", refund_id=refund.id, payment_id=refund.payment_id, status=target.value)
    if target is RefundStatus.SUCCEEDED:
        await move(session, refund.payment_id, PaymentStatus.REFUNDED, {}, refund_id=refund.id)
    elif target is RefundStatus.FAILED:
        await _refund_again(session, refund)
    return True


async def _require_refund(session: AsyncSession, refund_id: UUID) -> None:
    if await session.get(Refund, refund_id) is None:
        raise LookupError(f"there is no refund {refund_id}")


async def _refund_again(session: AsyncSession, failed: Refund) -> None:
    if failed.n >= MAX_REFUNDS:
        log.error("refund_given_up", payment_id=failed.payment_id, refunds=failed.n, reason=failed.reason)
        return
    await request_refund(session, await read_payment(session, failed.payment_id))
