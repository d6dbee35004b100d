"""What notifications keeps: one mail per event of an order, how far each order has come, and a mail's legal moves."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chassis.column_types import COLUMN_TYPES
from chassis.state_machine import StateMachine
from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class MailStatus(StrEnum):
    """`dead`: the mail server will never take it."""

    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"


MAIL = StateMachine(
    "mail",
    {MailStatus.PENDING: (MailStatus.SENT, MailStatus.DEAD), MailStatus.SENT: (), MailStatus.DEAD: ()},
)


class Base(DeclarativeBase):
    type_annotation_map = COLUMN_TYPES


class OrderProgress(Base):
    """The version of the order's event whose mail was written last: the next one is this plus one."""

    __tablename__ = "order_progress"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    last_version: Mapped[int]


class Mail(Base):
    __tablename__ = "mail"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    event_id: Mapped[UUID]  # names the mail in its Message-ID, the same over all attempts
    order_id: Mapped[UUID]
    version: Mapped[int]
    client_id: Mapped[str]
    event_type: Mapped[str]
    recipient: Mapped[str]
    subject: Mapped[str]
    text: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=MailStatus.PENDING.value)
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    settled_at: Mapped[datetime | None]
