"""Sweeps: whatever is open and has not changed for a while gets a job, from its state alone."""

from datetime import timedelta

from chassis.jobs import enqueue
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from payments.messages import ChargePayment, MakeRefund, ReconcileCharge, ReconcileRefund
from payments.models import Payment, PaymentStatus, Refund, RefundStatus
from payments.use_cases.charges import POST_WINDOW, has_open_attempt

_OPEN = (PaymentStatus.CREATED, PaymentStatus.SUBMITTING, PaymentStatus.SUBMITTED)


async def sweep(session: AsyncSession, *, stale_after: float, batch: int) -> None:
    """Protocol, rows 15 and 16, from state: whatever is open and has not changed for `stale_after` seconds gets a job.

    Charges that may still be posted are posted again, with the same key; of the others the provider is asked.
    """
    stale_since = func.now() - timedelta(seconds=stale_after)
    await _sweep_payments(session, is_stale=Payment.updated_at < stale_since, batch=batch)
    await _sweep_refunds(session, is_stale=Refund.updated_at < stale_since, batch=batch)


async def _sweep_payments(session: AsyncSession, *, is_stale: ColumnElement[bool], batch: int) -> None:
    payments = await session.execute(
        select(Payment.id, Payment.status, has_open_attempt(Payment.id, older_than=POST_WINDOW).label("is_late"))
        .where(
            Payment.updated_at < is_stale,
            Payment.status.in_(
                [PaymentStatus.CREATED.value, PaymentStatus.SUBMITTING.value, PaymentStatus.SUBMITTED.value]
            ),
        )
        .order_by(Payment.updated_at)
        .limit(batch)
    )
    for payment in payments:
        must_ask = payment.status == PaymentStatus.SUBMITTED or payment.is_late
        kind = ReconcileCharge if must_ask else ChargePayment
        await enqueue(session, kind(payment_id=payment.id), unique_key=str(payment.id))


async def _sweep_refunds(session: AsyncSession, *, is_stale: ColumnElement[bool], batch: int) -> None:
    refunds = await session.execute(
        select(Refund.id, Refund.status)
        .where(
            is_stale,
            Refund.status.in_([RefundStatus.REQUESTED.value, RefundStatus.SUBMITTED.value]),
        )
        .order_by(Refund.updated_at)
        .limit(batch)
    )
    for refund in refunds:
        kind = MakeRefund if refund.status == RefundStatus.REQUESTED else ReconcileRefund
        await enqueue(session, kind(refund_id=refund.id), unique_key=str(refund.id))
