"""Charges: a row is committed before each POST to the provider, and one function applies every report about a
charge.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from chassis.logging import get_logger
from chassis.pooling import Session
from sqlalchemy import ColumnElement, case, func, insert, or_, select, true, update
from sqlalchemy.orm import InstrumentedAttribute

from payments.models import AttemptOutcome, ChargeAttempt, Payment, PaymentStatus
from payments.use_cases.refunds import request_refund
from payments.use_cases.states import lock, move
from payments.use_cases.windows import POST_WINDOW, PROOF_AFTER

log = get_logger(__name__)


async def begin_attempt(session: Session, payment_id: UUID) -> int | None:
    """Step 4 of an order (docs/reference/protocol.md): move the payment to `submitting` and write the row of a new
    attempt. Returns the attempt's number.

    Returns None when the payment's status no longer allows a charge, or when the provider may soon forget the
    idempotency key.
    """
    moved = await session.scalar(
        update(Payment)
        .where(
            Payment.id == payment_id,
            Payment.status.in_((PaymentStatus.CREATED.value, PaymentStatus.SUBMITTING.value)),
            ~has_open_attempt(payment_id, older_than=POST_WINDOW),
        )
        .values(status=PaymentStatus.SUBMITTING.value, updated_at=func.now())
        .returning(Payment.id)
    )
    if moved is None:
        return None
    # The update above holds the lock on the payment's row, so no other transaction can take the same number.
    number = select(func.coalesce(func.max(ChargeAttempt.n), 0) + 1).where(ChargeAttempt.payment_id == payment_id)
    return await session.scalar(
        insert(ChargeAttempt).values(payment_id=payment_id, n=number.scalar_subquery()).returning(ChargeAttempt.n)
    )


async def attempt_not_run(session: Session, payment_id: UUID, n: int) -> None:
    """Step 6 of an order (docs/reference/protocol.md): close attempt `n`, which certainly did not run. If no other
    attempt is open, move the payment back to `created`, or to `canceled` if the payment is marked as void.
    """
    payment = await lock(session, payment_id)
    assert payment is not None  # noqa: S101  the attempt's row refers to the payment
    await session.execute(
        update(ChargeAttempt)
        .where(ChargeAttempt.payment_id == payment_id, ChargeAttempt.n == n)
        .values(outcome=AttemptOutcome.NOT_RUN.value, ended_at=func.now())
    )
    is_open = await session.scalar(select(has_open_attempt(payment_id)))
    if payment.status != PaymentStatus.SUBMITTING or is_open:
        return
    if payment.void:
        await move(session, payment_id, PaymentStatus.CANCELED, {"reason": "voided"})
    else:
        await move(session, payment_id, PaymentStatus.CREATED, {})


async def attempt_answered(session: Session, payment_id: UUID, n: int, answer: str) -> None:
    """Record the provider's answer to attempt `n`. No decision depends on the recorded answer: it helps an operator to
    investigate an order.
    """
    await session.execute(
        update(ChargeAttempt)
        .where(ChargeAttempt.payment_id == payment_id, ChargeAttempt.n == n)
        .values(answer=answer, ended_at=func.now())
    )


def has_open_attempt(
    payment_id: UUID | InstrumentedAttribute[UUID], *, older_than: timedelta | None = None
) -> ColumnElement[bool]:
    """Whether a POST that charges this payment may have had an effect, or may still have an effect."""
    attempts = select(ChargeAttempt.n).where(
        ChargeAttempt.payment_id == payment_id, ChargeAttempt.outcome == AttemptOutcome.OPEN.value
    )
    if older_than is not None:
        attempts = attempts.where(ChargeAttempt.created_at < func.now() - older_than)
    return attempts.exists()


@dataclass(frozen=True, slots=True)
class ChargeReport:
    """The state of a charge, from the provider's answer, from an event or from reconciliation.

    `object_version` is the provider's count of the charge's changes; None if the provider did not send it.
    """

    payment_id: UUID
    status: Literal["accepted", "captured", "failed"]
    provider_charge_id: str | None = None
    reason: str | None = None
    object_version: int | None = None


async def apply_charge_report(session: Session, report: ChargeReport) -> bool:
    """Step 5 of an order (docs/reference/protocol.md): apply a report about a charge, from any source. Returns whether
    the report changed the payment's state.

    A report is late when the payment already has a later status, or when a newer version of the charge is known. A late
    report only fills in the provider's id of the charge. Raises `LookupError` when there is no such payment.
    """
    target = {
        "accepted": PaymentStatus.SUBMITTED,
        "captured": PaymentStatus.CAPTURED,
        "failed": PaymentStatus.FAILED,
    }[report.status]
    charge_id = func.coalesce(Payment.provider_charge_id, report.provider_charge_id)
    learned = {"provider_charge_id": charge_id, "charge_version": _newest(report)}
    values = learned | {"reason": report.reason}
    moved = await move(session, report.payment_id, target, values, _is_not_late(report))
    if moved is not None:
        if moved.void and target is PaymentStatus.CAPTURED:
            await request_refund(session, moved)
        return True
    known = await session.scalar(
        update(Payment).where(Payment.id == report.payment_id).values(learned).returning(Payment.id)
    )
    if known is None:
        raise LookupError(f"there is no payment {report.payment_id}")
    return False


def _newest(report: ChargeReport) -> ColumnElement[int]:
    """The higher of the stored and the reported version of the charge. If the provider breaks its promise and makes two
    charges for a payment, only the versions of the first charge count.
    """
    if report.object_version is None:
        return Payment.charge_version.expression
    newest = func.greatest(Payment.charge_version, report.object_version)
    return case((_is_of_its_charge(report), newest), else_=Payment.charge_version)


def _is_not_late(report: ChargeReport) -> ColumnElement[bool]:
    """Whether the report's version is the known version or a newer one. A report with the known version is not late,
    because an earlier report may have stored this version without changing the status.
    """
    if report.object_version is None:
        return true()
    return or_(~_is_of_its_charge(report), Payment.charge_version <= report.object_version)


def _is_of_its_charge(report: ChargeReport) -> ColumnElement[bool]:
    return func.coalesce(Payment.provider_charge_id, report.provider_charge_id) == report.provider_charge_id


async def no_charge_found(session: Session, payment_id: UUID) -> bool:
    """Step 16 of an order (docs/reference/protocol.md): apply the report that the provider has no charge for the
    payment. Returns whether the report changed the payment's status.

    The payment fails only if no POST can still arrive at the provider. If the provider accepted the charge before,
    money may have been taken, so an error is logged for an operator.
    """
    payment = await lock(session, payment_id)
    if payment is not None and payment.status == PaymentStatus.SUBMITTED:
        log.error("charge_missing", payment_id=payment_id, provider_charge_id=payment.provider_charge_id)
    if payment is None or payment.status != PaymentStatus.SUBMITTING:
        return False
    if await session.scalar(select(has_open_attempt(payment_id, older_than=PROOF_AFTER))):
        return await apply_charge_report(session, ChargeReport(payment_id, "failed", reason="never_arrived"))
    return False
