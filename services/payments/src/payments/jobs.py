"""The handlers of payments' jobs."""

from dataclasses import dataclass, field
from uuid import UUID

from chassis import deadlines
from chassis.errors import DependencyRejected, PermanentJobError
from chassis.jobs import RunningJob
from chassis.logging import get_logger
from chassis.pooling import Database
from pydantic import ValidationError

from payments import use_cases
from payments.messages import ChargePayment
from payments.models import Payment, PaymentStatus
from payments.provider_client import ProviderClient, Refusal
from payments.use_cases import ChargeReport

log = get_logger(__name__)

CHARGE_DEADLINE = 10.0  # seconds: three attempts of 2 s and the waits between them; below the job's time limit

_PAYMENT_REQUIRED = 402
_UNPROCESSABLE = 422


async def charge_payment(database: Database, provider: ProviderClient, job: RunningJob, payload: ChargePayment) -> None:
    """Protocol, rows 4 to 6: charge the provider within the deadline; an unknown outcome is tried again by the job."""
    async with database.read() as session:
        payment = await use_cases.read_payment(session, payload.payment_id)
    if payment.status not in {PaymentStatus.CREATED, PaymentStatus.SUBMITTING}:
        return
    with deadlines.deadline(CHARGE_DEADLINE):
        report = await _charge(database, provider, payment)
    async with database.transaction() as session:
        if report is not None:
            await use_cases.apply_charge_report(session, report)
        await job.complete_in(session)


async def _charge(database: Database, provider: ProviderClient, payment: Payment) -> ChargeReport | None:
    """Charge; None when the payment moved on while this was about to start."""
    attempts = _Attempts(database, payment.id)
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
    status = "accepted" if charge.status == "pending" else charge.status
    return ChargeReport(payment.id, status, provider_charge_id=charge.id, reason=charge.failure_code)


def _refusal(error: DependencyRejected) -> str:
    """Why the provider refused for good. What is not such a refusal travels on: its outcome is unknown."""
    code = _error_code(error.body)
    if error.status == _PAYMENT_REQUIRED:
        return code
    if error.status == _UNPROCESSABLE and code != "idempotency_key_reused":
        return code
    if error.status == _UNPROCESSABLE:
        # Our key stands for another payload there: only a person can say which charge is meant.
        raise PermanentJobError(str(error)) from error
    raise error


def _error_code(body: bytes) -> str:
    try:
        return Refusal.model_validate_json(body).error.code
    except ValidationError:
        return "unreadable_answer"


class _MovedOnError(Exception):
    """The payment is no longer to be charged."""


@dataclass(slots=True)
class _Attempts:
    """The attempt rows of one run: each committed before its POST; `_numbers` maps the loop's turn to the row."""

    _database: Database
    _payment_id: UUID
    _numbers: dict[int, int] = field(default_factory=dict)

    async def begin(self, turn: int) -> None:
        async with self._database.transaction() as session:
            number = await use_cases.begin_attempt(session, self._payment_id)
        if number is None:
            raise _MovedOnError
        self._numbers[turn] = number

    async def not_run(self, turn: int) -> None:
        async with self._database.transaction() as session:
            await use_cases.attempt_not_run(session, self._payment_id, self._numbers[turn])
