"""The tables of the notifications service (mails, webhook endpoints, deliveries, progress by order), and the legal
transitions of their statuses.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chassis.pooling.column_types import COLUMN_TYPES
from chassis.pooling.state_machine import StateMachine
from sqlalchemy import ForeignKey, Identity, Text, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class MailStatus(StrEnum):
    """`dead`: the mail server refused the mail permanently. An operator may send the mail again."""

    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"


MAIL = StateMachine(
    "mail",
    {
        MailStatus.PENDING: (MailStatus.SENT, MailStatus.DEAD),
        MailStatus.SENT: (),
        MailStatus.DEAD: (MailStatus.PENDING,),
    },
)


class DeliveryStatus(StrEnum):
    """`dead`: all attempts failed; a client may request a redelivery. `disabled`: the endpoint was disabled or deleted
    before the webhook was delivered.
    """

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    DISABLED = "disabled"


WEBHOOK_DELIVERY = StateMachine(
    "webhook delivery",
    {
        DeliveryStatus.PENDING: (DeliveryStatus.DELIVERED, DeliveryStatus.DEAD, DeliveryStatus.DISABLED),
        DeliveryStatus.DELIVERED: (),
        DeliveryStatus.DEAD: (DeliveryStatus.PENDING,),
        DeliveryStatus.DISABLED: (),
    },
)


class Base(DeclarativeBase):
    type_annotation_map = COLUMN_TYPES


class OrderProgress(Base):
    """The version of the order's event whose mail was written last. The order's next mail is for the event with the
    next version.
    """

    __tablename__ = "order_progress"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    last_version: Mapped[int]


class Mail(Base):
    """A mail to a customer about an order's event, or a notice: a mail to a client about one of its endpoints. A notice
    has neither an order nor a version.
    """

    __tablename__ = "mail"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    event_id: Mapped[UUID]  # the mail's Message-ID, the same in all attempts
    order_id: Mapped[UUID | None]
    version: Mapped[int | None]
    client_id: Mapped[str]
    event_type: Mapped[str]
    recipient: Mapped[str]
    subject: Mapped[str]
    text: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=MailStatus.PENDING.value)
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    settled_at: Mapped[datetime | None]


class WebhookEndpoint(Base):
    """A client's URL that receives the events of the client's orders. The row of a deleted endpoint stays, without
    secrets, because its deliveries refer to this row.
    """

    __tablename__ = "webhook_endpoint"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    client_id: Mapped[str]
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    is_enabled: Mapped[bool] = mapped_column(server_default="true")
    disabled_reason: Mapped[str | None]
    contact_email: Mapped[str | None]  # this address receives a mail when the endpoint is disabled
    # The time of the first failure since the latest success; None while attempts succeed.
    failing_since: Mapped[datetime | None]
    # True if the latest attempt failed or was slow. The number of concurrent attempts at suspect endpoints is limited.
    is_suspect: Mapped[bool] = mapped_column(server_default="false")
    # The secrets are stored in plain text, because the worker signs webhooks with them. So a reader of this table could
    # forge signatures. The secrets are None once the endpoint is deleted.
    secret: Mapped[str | None]
    old_secret: Mapped[str | None]
    old_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """The delivery of one event to one endpoint. The delivery's id is the value of the header `webhook-id`, which is
    the same in all attempts.
    """

    __tablename__ = "webhook_delivery"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoint.id"))
    client_id: Mapped[str]
    event_id: Mapped[UUID]
    event_type: Mapped[str]
    order_id: Mapped[UUID]
    body: Mapped[str]
    traceparent: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default=DeliveryStatus.PENDING.value)
    # The delivery's position in the endpoint's queue. A redelivery moves the delivery to the end of the queue.
    sequence: Mapped[int] = mapped_column(Identity())
    attempts: Mapped[int] = mapped_column(server_default="0")
    # The time from which the next attempt may begin. An attempt that is still under way at this time counts as lost.
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_status: Mapped[int | None]
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    settled_at: Mapped[datetime | None]
