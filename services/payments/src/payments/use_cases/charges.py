"""Charges: a row is committed before each POST to the provider, and one function applies every report about a
charge.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from chassis.logging import get_logger
from chassis.pooling import Session
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import InstrumentedAttribute

from payments.models import AttemptOutcome, ChargeAttempt, PaymentStatus
from payments.use_cases.refunds import request_refund
from payments.use_cases.states import SQL, PaymentRow, lock, move, parameters_of_move, report_move
from payments.use_cases.windows import POST_WINDOW, PROOF_AFTER

log = get_logger(__name__)


async def begin_attempt(session: Session, payment_id: UUID) -> int | None:
    """Step 4 of an order (docs/reference/protocol.md): move the payment to `submitting` and write the row of a new
    attempt. Returns the attempt's number.

    Returns None when the payment's status no longer allows a charge, or when the provider may soon forget the
    idempotency key.
    """
    moved = await session.fetch_value(SQL["begin_charging"], payment_id=payment_id, post_window=POST_WINDOW)
    if moved is None:
        return None
    number: int = await session.fetch_value(SQL["add_attempt"], payment_id=payment_id)
    return number


async def attempt_not_run(session: Session, payment_id: UUID, n: int) -> None:
    """Step 6 of an order (docs/reference/protocol.md): close attempt `n`, whose POST certainly did not run. If no other
    attempt is open (its POST may have had an effect), move the payment back to `created`. If the payment is marked as
    void (its net amount must become zero), move the payment to `canceled` instead.
    """
    payment = await lock(session, payment_id)
    assert payment is not None  # noqa: S101  the attempt's row has a foreign key to the payment
    await session.execute(
        update(ChargeAttempt)
        .where(ChargeAttempt.payment_id == payment_id, ChargeAttempt.n == n)
        .values(outcome=AttemptOutcome.NOT_RUN.value, ended_at=func.now())
    )
    is_open = await session.scalar(select(has_open_attempt(payment_id)))
    if payment.status != PaymentStatus.SUBMITTING or is_open:
        return
    if payment.void:
        await move(session, payment_id, PaymentStatus.CANCELED, reason="voided")
    else:
        await move(session, payment_id, PaymentStatus.CREATED)


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


_TARGETS = {
    "accepted": PaymentStatus.SUBMITTED,
    "captured": PaymentStatus.CAPTURED,
    "failed": PaymentStatus.FAILED,
}


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


async def apply_charge_report(session: Session, report: ChargeReport, *, attempt: int | None = None) -> bool:
    """Step 5 of an order (docs/reference/protocol.md): apply a report about a charge, from any source. Returns whether
    the report changed the payment's state.

    A report is late when the payment already has a later status, or when a newer version of the charge is known. A late
    report only fills in the provider's id of the charge. If the report is the answer to an attempt, `attempt` is the
    number of that attempt. The answer is recorded for operators who investigate an order, not for any decision.
    Raises `LookupError` when there is no such payment.
    """
    target = _TARGETS[report.status]
    moved = await session.fetch_one(
        SQL["apply_charge_report"],
        PaymentRow,
        payment_id=report.payment_id,
        charge_id=report.provider_charge_id,
        object_version=report.object_version,
        reason=report.reason,
        n=attempt,
        answer=report.reason or report.status,
        **parameters_of_move(target),
    )
    if moved is not None:
        await report_move(session, moved)
        if moved.void and target is PaymentStatus.CAPTURED:
            await request_refund(session, moved)
        return True
    known = await session.fetch_value(
        SQL["note_charge"],
        payment_id=report.payment_id,
        charge_id=report.provider_charge_id,
        object_version=report.object_version,
    )
    if known is None:
        raise LookupError(f"there is no payment {report.payment_id}")
    return False


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
