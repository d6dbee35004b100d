"""Sweeps: enqueue a job for each open payment or refund that has no job and has not changed for some time."""

from datetime import timedelta

from chassis.jobs import enqueue, has_live_job
from chassis.pooling import Session
from sqlalchemy import ColumnElement, func, select

from payments.messages import ChargePayment, MakeRefund, ReconcileCharge, ReconcileRefund
from payments.models import Payment, PaymentStatus, Refund, RefundStatus
from payments.use_cases.charges import has_open_attempt
from payments.use_cases.windows import POST_WINDOW


async def sweep(session: Session, *, stale_after: float, batch: int) -> None:
    """Steps 15 and 16 of an order (docs/reference/protocol.md): enqueue jobs for open payments and refunds that have no
    job and have not changed for `stale_after` seconds. One call enqueues jobs for at most `batch` payments and `batch`
    refunds.

    While the provider is sure to remember the idempotency key, the job repeats the POST with this key. After that time,
    the job reads the outcome from the provider. The batch is chosen at random, because in a fixed order payments that
    cannot move could fill every batch.
    """
    stale_since = func.now() - timedelta(seconds=stale_after)
    await _sweep_payments(session, is_stale=Payment.updated_at < stale_since, batch=batch)
    await _sweep_refunds(session, is_stale=Refund.updated_at < stale_since, batch=batch)


async def _sweep_payments(session: Session, *, is_stale: ColumnElement[bool], batch: int) -> None:
    payments = await session.execute(
        select(Payment.id, Payment.status, has_open_attempt(Payment.id, older_than=POST_WINDOW).label("is_late"))
        .where(
            is_stale,
            Payment.status.in_(
                [PaymentStatus.CREATED.value, PaymentStatus.SUBMITTING.value, PaymentStatus.SUBMITTED.value]
            ),
            ~has_live_job((ChargePayment, ReconcileCharge), payment_id=Payment.id),
        )
        .order_by(func.random())
        .limit(batch)
    )
    for payment in payments:
        must_reconcile = payment.status == PaymentStatus.SUBMITTED or payment.is_late
        kind = ReconcileCharge if must_reconcile else ChargePayment
        await enqueue(session, kind(payment_id=payment.id))


async def _sweep_refunds(session: Session, *, is_stale: ColumnElement[bool], batch: int) -> None:
    refunds = await session.execute(
        select(Refund.id, Refund.status, (Refund.created_at < func.now() - POST_WINDOW).label("is_late"))
        .where(
            is_stale,
            Refund.status.in_([RefundStatus.REQUESTED.value, RefundStatus.SUBMITTED.value]),
            ~has_live_job((MakeRefund, ReconcileRefund), refund_id=Refund.id),
        )
        .order_by(func.random())
        .limit(batch)
    )
    for refund in refunds:
        must_reconcile = refund.status == RefundStatus.SUBMITTED or refund.is_late
        kind = ReconcileRefund if must_reconcile else MakeRefund
        await enqueue(session, kind(refund_id=refund.id))
