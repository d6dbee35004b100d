"""What webhook-ingest keeps: each provider event once, with its raw body, and the legal moves of one."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chassis.pooling.column_types import COLUMN_TYPES
from chassis.pooling.state_machine import StateMachine
from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Provider(StrEnum):
    """Who sends webhooks; the value is the last part of the path they post to."""

    PAYMENT_PROVIDER = "payment-provider"
    STRIPE = "stripe"
    GITHUB = "github"


class ProviderEventStatus(StrEnum):
    """`ignored`: of a type that nobody here handled; kept, until somebody does."""

    STORED = "stored"
    PUBLISHED = "published"
    IGNORED = "ignored"
    DEAD = "dead"


PROVIDER_EVENT = StateMachine(
    "provider event",
    {
        ProviderEventStatus.STORED: (
            ProviderEventStatus.PUBLISHED,
            ProviderEventStatus.DEAD,
            ProviderEventStatus.IGNORED,
        ),
        # Redriven, once what reads them was mended or taught.
        ProviderEventStatus.DEAD: (ProviderEventStatus.STORED,),
        ProviderEventStatus.PUBLISHED: (),
        ProviderEventStatus.IGNORED: (ProviderEventStatus.STORED,),
    },
)


class Base(DeclarativeBase):
    type_annotation_map = COLUMN_TYPES


class ProviderEvent(Base):
    __tablename__ = "provider_event"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    provider: Mapped[str]
    event_id: Mapped[str]  # the sender's; unique per provider
    body: Mapped[bytes]  # as it was signed
    status: Mapped[str] = mapped_column(server_default=ProviderEventStatus.STORED.value)
    reason: Mapped[str | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
