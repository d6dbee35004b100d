"""The tables of payments (payments, charge attempts, refunds), and the legal transitions of a payment and a refund."""

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
            PaymentStatus.CREATED,  # if no attempt has run
            PaymentStatus.SUBMITTED,
            PaymentStatus.CAPTURED,
            PaymentStatus.FAILED,
            PaymentStatus.CANCELED,  # if no attempt is open
        ),
        PaymentStatus.SUBMITTED: (PaymentStatus.CAPTURED, PaymentStatus.FAILED),
        PaymentStatus.CAPTURED: (PaymentStatus.REFUNDED,),
        PaymentStatus.FAILED: (),
        PaymentStatus.CANCELED: (),
        PaymentStatus.REFUNDED: (),
    },
)


class RefundStatus(StrEnum):
    """`submitted`: the provider has accepted the refund. After `failed`, another refund with a new key is tried."""

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
    """`open`: the POST may have had an effect, or may still have one. `not_run`: the POST certainly has no effect."""

    OPEN = "open"
    NOT_RUN = "not_run"


class Base(DeclarativeBase):
    type_annotation_map = COLUMN_TYPES


class Payment(Base):
    __tablename__ = "payment"

    id: Mapped[UUID] = mapped_column(primary_key=True)  # orders creates the id together with the order
    order_id: Mapped[UUID] = mapped_column(unique=True)
    amount: Mapped[int]  # minor units
    currency: Mapped[str]
    payment_method: Mapped[str | None]  # None if the payment was voided before it was requested
    status: Mapped[str] = mapped_column(server_default=PaymentStatus.CREATED.value)
    # True when orders has requested a net amount of zero. A later capture is then refunded automatically.
    void: Mapped[bool] = mapped_column(server_default="false")
    provider_charge_id: Mapped[str | None]
    # The provider's version of the charge. A report of an older version is out of date.
    charge_version: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None]
    # The version of the event that was published last; 0 before the first one.
    version: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ChargeAttempt(Base):
    """One POST to the provider. The row is committed before the POST, and each attempt of a retry loop has its own row.

    `answer` is the provider's status of the charge or the code of its refusal. It is None if the provider sent neither;
    `ended_at` is then None, too, unless the POST certainly did not run.
    """

    __tablename__ = "charge_attempt"

    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payment.id"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(server_default=AttemptOutcome.OPEN.value)
    answer: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]


class Refund(Base):
    """One refund at the provider, with its own key. At most one refund of a payment is not `failed`."""

    __tablename__ = "refund"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payment.id"))
    n: Mapped[int]
    amount: Mapped[int]  # minor units
    status: Mapped[str] = mapped_column(server_default=RefundStatus.REQUESTED.value)
    provider_refund_id: Mapped[str | None]
    provider_version: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
