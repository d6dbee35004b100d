"""The handlers of the payments service's jobs."""

from dataclasses import dataclass, field
from uuid import UUID

from chassis.errors import DependencyRejected, PermanentJobError
from chassis.jobs import RunningJob
from chassis.logging import get_logger
from chassis.pooling import Database
from chassis.retries import deadlines
from pydantic import ValidationError

from payments import use_cases
from payments.messages import ChargePayment, MakeRefund, ReconcileCharge, ReconcileRefund
from payments.models import PaymentStatus
from payments.provider_client import Charge, ProviderClient, Refund, Refusal
from payments.use_cases import ChargeReport, PaymentRow, RefundReport

log = get_logger(__name__)

# Seconds for all attempts of one call: three attempts of 2 s and the waits between them. The jobs' time limit is 20 s,
# so at least 10 s are left for queries.
CALL_DEADLINE = 10.0

_PAYMENT_REQUIRED = 402
_UNPROCESSABLE = 422
_UNREADABLE = "unreadable_answer"


async def charge_payment(database: Database, provider: ProviderClient, job: RunningJob, payload: ChargePayment) -> None:
    """Steps 4 to 6 of an order (docs/reference/protocol.md): charge the payment at the provider within `CALL_DEADLINE`.
    If the outcome is unknown, the job is retried.
    """
    async with database.read() as session:
        payment = await use_cases.read_payment(session, payload.payment_id)
    if payment.status not in {PaymentStatus.CREATED, PaymentStatus.SUBMITTING}:
        return
    attempts = _Attempts(database, payment.id)
    with deadlines.deadline(CALL_DEADLINE):
        report = await _charge(provider, payment, attempts)
    async with database.transaction() as session:
        if report is not None:
            await use_cases.apply_charge_report(session, report, attempt=attempts.last)
        await job.complete_in(session)


async def reconcile_charge(
    database: Database, provider: ProviderClient, job: RunningJob, payload: ReconcileCharge
) -> None:
    """Step 16 of an order (docs/reference/protocol.md): look the charge up at the provider, because no answer and no
    event has reported whether the charge succeeded.
    """
    with deadlines.deadline(CALL_DEADLINE):
        charges = await provider.find_charges(payload.payment_id)
    captured = [charge for charge in charges if charge.status == "captured"]
    if len(captured) > 1:
        # The provider promises at most one charge per idempotency key, and has broken its promise. An operator must
        # decide which charge counts, and refund the others.
        log.error("payment_charged_twice", payment_id=payload.payment_id, charges=[charge.id for charge in charges])
    async with database.transaction() as session:
        if charges:
            await use_cases.apply_charge_report(session, _report(payload.payment_id, (captured or charges)[0]))
        else:
            await use_cases.no_charge_found(session, payload.payment_id)
        await job.complete_in(session)


async def make_refund(database: Database, provider: ProviderClient, job: RunningJob, payload: MakeRefund) -> None:
    """Step 13 of an order (docs/reference/protocol.md): request the refund from the provider, with the refund's own
    idempotency key. If the outcome is unknown, the job is retried with the same key.
    """
    async with database.read() as session:
        refund = await use_cases.refund_to_ask_for(session, payload.refund_id)
    if refund is None:
        return
    try:
        with deadlines.deadline(CALL_DEADLINE):
            made = await provider.refund(refund_id=refund.id, payment_id=refund.payment_id, amount=refund.amount)
        report = _refund_report(refund.id, made)
    except DependencyRejected as error:
        report = RefundReport(refund.id, "failed", reason=_refusal(error))
    async with database.transaction() as session:
        await use_cases.apply_refund_report(session, report)
        await job.complete_in(session)


async def reconcile_refund(
    database: Database, provider: ProviderClient, job: RunningJob, payload: ReconcileRefund
) -> None:
    """Step 16 of an order (docs/reference/protocol.md): look the refund up at the provider, because no answer and no
    event has reported whether the refund succeeded.
    """
    with deadlines.deadline(CALL_DEADLINE):
        refunds = await provider.find_refunds(payload.refund_id)
    async with database.transaction() as session:
        if refunds:
            await use_cases.apply_refund_report(session, _refund_report(payload.refund_id, refunds[0]))
        else:
            await use_cases.no_refund_found(session, payload.refund_id)
        await job.complete_in(session)


def _report(payment_id: UUID, charge: Charge) -> ChargeReport:
    status = "accepted" if charge.status == "pending" else charge.status
    return ChargeReport(
        payment_id,
        status,
        provider_charge_id=charge.id,
        reason=charge.failure_code,
        object_version=charge.object_version,
    )


def _refund_report(refund_id: UUID, refund: Refund) -> RefundReport:
    status = "accepted" if refund.status == "pending" else refund.status
    return RefundReport(
        refund_id,
        status,
        provider_refund_id=refund.id,
        reason=refund.failure_code,
        object_version=refund.object_version,
    )


async def _charge(provider: ProviderClient, payment: PaymentRow, attempts: "_Attempts") -> ChargeReport | None:
    """Charge the payment. Returns None if the payment must no longer be charged, because it was voided or its status
    changed before the charge began.
    """
    if payment.payment_method is None:
        return None
    try:
        charge = await provider.charge(
            payment_id=payment.id,
            amount=payment.amount,
            currency=payment.currency,
            payment_method=payment.payment_method,
            before_attempt=attempts.begin,
            on_not_run=attempts.not_run,
        )
    except _MovedOnError:
        return None
    except DependencyRejected as error:
        return ChargeReport(payment.id, "failed", reason=_refusal(error))
    return _report(payment.id, charge)


def _refusal(error: DependencyRejected) -> str:
    """The provider's reason for a final refusal. Raises the error again if the refusal is not final, because the
    outcome is then unknown.
    """
    code = _error_code(error.body)
    if error.status == _PAYMENT_REQUIRED:
        return code
    if error.status == _UNPROCESSABLE and code not in {"idempotency_key_reused", _UNREADABLE}:
        return code
    if error.status == _UNPROCESSABLE:
        # The provider has, or may have, another payload under this idempotency key. Only an operator can decide which
        # charge is right.
        raise PermanentJobError(str(error)) from error
    raise error


def _error_code(body: bytes) -> str:
    try:
        return Refusal.model_validate_json(body).error.code
    except ValidationError:
        return _UNREADABLE


class _MovedOnError(Exception):
    """The payment's status changed before an attempt began, so the payment must no longer be charged."""


@dataclass(slots=True)
class _Attempts:
    """The rows of the charge attempts that one run of the job makes. Each row is committed before the attempt's POST.

    `_numbers` maps the number of an attempt in the retry loop to the number of its row.
    """

    _database: Database
    _payment_id: UUID
    _numbers: dict[int, int] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The number of the latest row. Callers read this property after the provider has answered, so a row exists."""
        return max(self._numbers.values())

    async def begin(self, turn: int) -> None:
        async with self._database.transaction() as session:
            number = await use_cases.begin_attempt(session, self._payment_id)
        if number is None:
            raise _MovedOnError
        self._numbers[turn] = number

    async def not_run(self, turn: int) -> None:
        async with self._database.transaction() as session:
            await use_cases.attempt_not_run(session, self._payment_id, self._numbers[turn])
