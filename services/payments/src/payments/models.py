"""What payments keeps: payments, the attempts to charge them, and the legal moves of a payment."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chassis.pooling.column_types import COLUMN_TYPES
from chassis.pooling.state_machine import StateMachine
from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class PaymentStatus(StrEnum):
    """`submitting`: a charge may be on its way. `submitted`: the provider has it. `canceled`: it never will."""

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
            PaymentStatus.CREATED,  # every attempt is known not to have run
            PaymentStatus.SUBMITTED,
            PaymentStatus.CAPTURED,
            PaymentStatus.FAILED,
            PaymentStatus.CANCELED,  # only when no attempt is open
        ),
        PaymentStatus.SUBMITTED: (PaymentStatus.CAPTURED, PaymentStatus.FAILED),
        PaymentStatus.CAPTURED: (PaymentStatus.REFUNDED,),
        PaymentStatus.FAILED: (),
        PaymentStatus.CANCELED: (),
        PaymentStatus.REFUNDED: (),
    },
)


class RefundStatus(StrEnum):
    """`submitted`: the provider has it. After `failed` a new row with a new key is tried."""

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
    """`open`: this POST may have had an effect, or may still have one. `not_run`: its sender knows that it cannot."""

    OPEN = "open"
    NOT_RUN = "not_run"


class Base(DeclarativeBase):
    type_annotation_map = COLUMN_TYPES


class Payment(Base):
    __tablename__ = "payment"

    id: Mapped[UUID] = mapped_column(primary_key=True)  # minted by orders, with the order
    order_id: Mapped[UUID] = mapped_column(unique=True)
    amount: Mapped[int]  # minor units
    currency: Mapped[str]
    payment_method: Mapped[str | None]  # none on a tombstone: its payment was never asked for
    status: Mapped[str] = mapped_column(server_default=PaymentStatus.CREATED.value)
    # "Bring the net to zero": a capture that comes later is refunded by itself.
    void: Mapped[bool] = mapped_column(server_default="false")
    provider_charge_id: Mapped[str | None]
    # Of the charge, as the provider counts: what it told of an older one is late.
    charge_version: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None]
    # The version of the event that was published last; 0 before there is news.
    version: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ChargeAttempt(Base):
    """One POST to the provider, written before it is sent: each turn of a retry loop is a new row.

    `answer` is the provider's status of the charge, or the code of its refusal. What got no such answer has none, and
    no end unless it is known not to have run.
    """

    __tablename__ = "charge_attempt"

    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payment.id"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(server_default=AttemptOutcome.OPEN.value)
    answer: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]


class Refund(Base):
    """One refund at the provider, under its own key; at most one of a payment is not `failed`."""

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
