"""The tables of the payments service (payments, charge attempts, refunds), and the legal transitions of their
statuses.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chassis.pooling.column_types import COLUMN_TYPES
from chassis.pooling.state_machine import StateMachine
from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class PaymentStatus(StrEnum):
    """`submitting`: a charge may be on its way. `submitted`: the provider has accepted the charge. `canceled`: the
    payment was not and will not be charged.
    """

    CREATED = "created"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    CAPTURED = "captured"
    FAILED = "failed"
    CANCELED = "canceled"
    REFUNDED = "refunded"


PAYMENT = StateMachine(
    "payment",
    {
        PaymentStatus.CREATED: (PaymentStatus.SUBMITTING, PaymentStatus.CANCELED),
        PaymentStatus.SUBMITTING: (
            PaymentStatus.CREATED,  # allowed only if every POST of a charge certainly did not run
            PaymentStatus.SUBMITTED,
            PaymentStatus.CAPTURED,
            PaymentStatus.FAILED,
            PaymentStatus.CANCELED,  # allowed only if every POST of a charge certainly did not run
        ),
        PaymentStatus.SUBMITTED: (PaymentStatus.CAPTURED, PaymentStatus.FAILED),
        PaymentStatus.CAPTURED: (PaymentStatus.REFUNDED,),
        PaymentStatus.FAILED: (),
        PaymentStatus.CANCELED: (),
        PaymentStatus.REFUNDED: (),
    },
)


class RefundStatus(StrEnum):
    """`submitted`: the provider has accepted the refund. After a refund has failed, another refund with a new
    idempotency key is tried.
    """

    REQUESTED = "requested"
    SUBMITTED = "submitted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


REFUND = StateMachine(
    "refund",
    {
        RefundStatus.REQUESTED: (RefundStatus.SUBMITTED, RefundStatus.SUCCEEDED, RefundStatus.FAILED),
        RefundStatus.SUBMITTED: (RefundStatus.SUCCEEDED, RefundStatus.FAILED),
        RefundStatus.SUCCEEDED: (),
        RefundStatus.FAILED: (),
    },
)


class AttemptOutcome(StrEnum):
    """Whether a POST to the provider may have charged the payment. `open`: the POST may have had an effect, or may
    still have an effect. `not_run`: the POST certainly has no effect.
    """

    OPEN = "open"
    NOT_RUN = "not_run"


class Base(DeclarativeBase):
    type_annotation_map = COLUMN_TYPES


class Payment(Base):
    __tablename__ = "payment"

    id: Mapped[UUID] = mapped_column(primary_key=True)  # the orders service creates this id together with the order
    order_id: Mapped[UUID] = mapped_column(unique=True)
    amount: Mapped[int]  # in minor units of the currency (cents)
    currency: Mapped[str]
    payment_method: Mapped[str | None]  # None if the payment was voided before it was requested
    status: Mapped[str] = mapped_column(server_default=PaymentStatus.CREATED.value)
    # True when the orders service has requested that the payment's net amount becomes zero. If the payment is captured
    # afterwards, it is refunded automatically.
    void: Mapped[bool] = mapped_column(server_default="false")
    provider_charge_id: Mapped[str | None]
    # The newest version of the charge that the provider has reported. A report of an older version is out of date.
    charge_version: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None]
    # The version of the payment's event that was published last; 0 before the first event.
    version: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ChargeAttempt(Base):
    """One POST of a charge to the provider. The row is committed before the POST, and each attempt of a retry loop has
    its own row.

    `answer` is the status of the charge or the code of the refusal, as the provider sent it; None without an answer.
    `ended_at` is the time at which the answer arrived, or at which it was certain that the POST did not run.
    """

    __tablename__ = "charge_attempt"

    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payment.id"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(server_default=AttemptOutcome.OPEN.value)
    answer: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]


class Refund(Base):
    """One refund at the provider, with its own idempotency key. A payment has at most one refund that has not
    failed.
    """

    __tablename__ = "refund"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payment.id"))
    n: Mapped[int]
    amount: Mapped[int]  # in minor units of the currency (cents)
    status: Mapped[str] = mapped_column(server_default=RefundStatus.REQUESTED.value)
    provider_refund_id: Mapped[str | None]
    provider_version: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
