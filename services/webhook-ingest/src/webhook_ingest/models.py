"""The table of webhook-ingest, which stores each provider event once with its raw body, and the legal transitions of an
event's status.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chassis.pooling.column_types import COLUMN_TYPES
from chassis.pooling.state_machine import StateMachine
from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Provider(StrEnum):
    """The providers that send webhooks. A provider's value is the last part of the path to which the provider posts."""

    PAYMENT_PROVIDER = "payment-provider"
    STRIPE = "stripe"
    GITHUB = "github"


class ProviderEventStatus(StrEnum):
    """`ignored`: no handler exists for the event's type. The event stays stored. Once a handler exists, an operator can
    redrive the event (process it again).
    """

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
        # An operator redrives dead and ignored events once the code can read or handle them.
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
    event_id: Mapped[str]  # the provider's id of the event; unique per provider
    body: Mapped[bytes]  # the bytes that the provider signed
    status: Mapped[str] = mapped_column(server_default=ProviderEventStatus.STORED.value)
    reason: Mapped[str | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
