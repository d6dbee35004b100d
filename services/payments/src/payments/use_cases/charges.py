"""Charging: an attempt row before each POST, and one function for whatever is learned of it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from chassis.logging import get_logger
from sqlalchemy import ColumnElement, case, func, insert, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from payments.models import AttemptOutcome, ChargeAttempt, Payment, PaymentStatus
from payments.use_cases.refunds import request_refund
from payments.use_cases.states import lock, move
from payments.use_cases.windows import POST_WINDOW, PROOF_AFTER

log = get_logger(__name__)


async def begin_attempt(session: AsyncSession, payment_id: UUID) -> int | None:
    """Protocol, row 4: the payment is `submitting` and a new attempt is open. Returns the attempt's number.

    None when the payment has moved on and must not be charged (again), or when its key may soon be forgotten.
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
    # The update above holds the payment's row lock, so that no other attempt takes the same number.
    number = select(func.coalesce(func.max(ChargeAttempt.n), 0) + 1).where(ChargeAttempt.payment_id == payment_id)
    return await session.scalar(
        insert(ChargeAttempt).values(payment_id=payment_id, n=number.scalar_subquery()).returning(ChargeAttempt.n)
    )


async def attempt_not_run(session: AsyncSession, payment_id: UUID, n: int) -> None:
    """Protocol, row 6: attempt `n` is known not to have run. With none open the payment is as it was created, or, when
    it is to be void, canceled.
    """
    payment = await lock(session, payment_id)
    assert payment is not None  # noqa: S101  its attempt refers to it
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


async def attempt_answered(session: AsyncSession, payment_id: UUID, n: int, answer: str) -> None:
    """What the provider said to attempt `n`: for whoever asks how the order went. Nothing is decided by it."""
    await session.execute(
        update(ChargeAttempt)
        .where(ChargeAttempt.payment_id == payment_id, ChargeAttempt.n == n)
        .values(answer=answer, ended_at=func.now())
    )


def has_open_attempt(
    payment_id: UUID | InstrumentedAttribute[UUID], *, older_than: timedelta | None = None
) -> ColumnElement[bool]:
    """Whether a POST of this payment may have had an effect, or may still have one."""
    attempts = select(ChargeAttempt.n).where(
        ChargeAttempt.payment_id == payment_id, ChargeAttempt.outcome == AttemptOutcome.OPEN.value
    )
    if older_than is not None:
        attempts = attempts.where(ChargeAttempt.created_at < func.now() - older_than)
    return attempts.exists()


@dataclass(frozen=True, slots=True)
class ChargeReport:
    """What became of a charge, wherever that was learned: an answer, an event, or asking.

    `object_version` is the provider's count of the charge's changes; None where it was not told.
    """

    payment_id: UUID
    status: Literal["accepted", "captured", "failed"]
    provider_charge_id: str | None = None
    reason: str | None = None
    object_version: int | None = None


async def apply_charge_report(session: AsyncSession, report: ChargeReport) -> bool:
    """Protocol, row 5: the one function for the HTTP answer, the event and reconciliation. Whether it changed a state.

    News that comes late (the state has moved on, or a newer version of the charge is known) moves nothing and only
    fills in the provider's id. Raises `LookupError` for a payment that is not ours.
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
    """Of two charges for one payment, which the provider must never make, only the first one's versions count."""
    if report.object_version is None:
        return Payment.charge_version.expression
    newest = func.greatest(Payment.charge_version, report.object_version)
    return case((_is_of_its_charge(report), newest), else_=Payment.charge_version)


def _is_not_late(report: ChargeReport) -> ColumnElement[bool]:
    """The version that is known already is not late: it may have been known without its state."""
    if report.object_version is None:
        return true()
    return or_(~_is_of_its_charge(report), Payment.charge_version <= report.object_version)


def _is_of_its_charge(report: ChargeReport) -> ColumnElement[bool]:
    return func.coalesce(Payment.provider_charge_id, report.provider_charge_id) == report.provider_charge_id


async def no_charge_found(session: AsyncSession, payment_id: UUID) -> bool:
    """Protocol, row 16: the provider knows no charge. A proof only once no POST can arrive any more; whether it is.

    Of a charge that it has accepted it proves nothing at all: money may be taken, and somebody has to ask.
    """
    payment = await lock(session, payment_id)
    if payment is not None and payment.status == PaymentStatus.SUBMITTED:
        log.error("charge_missing", payment_id=payment_id, provider_charge_id=payment.provider_charge_id)
    if payment is None or payment.status != PaymentStatus.SUBMITTING:
        return False
    if await session.scalar(select(has_open_attempt(payment_id, older_than=PROOF_AFTER))):
        return await apply_charge_report(session, ChargeReport(payment_id, "failed", reason="never_arrived"))
    return False
