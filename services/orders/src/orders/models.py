"""The tables of the orders service (products, orders, lines of orders), and the legal transitions of an order's
status.
"""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from chassis.pooling.column_types import COLUMN_TYPES
from chassis.pooling.state_machine import StateMachine
from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class OrderStatus(StrEnum):
    """`cancelling`: the payment may still be captured, or is not refunded yet. `cancelled`: the client has paid
    nothing, or has got the money back.
    """

    PENDING = "pending"
    CONFIRMED = "confirmed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ORDER = StateMachine(
    "order",
    {
        OrderStatus.PENDING: (OrderStatus.CONFIRMED, OrderStatus.CANCELLED, OrderStatus.CANCELLING),
        OrderStatus.CONFIRMED: (OrderStatus.CANCELLING,),
        OrderStatus.CANCELLING: (OrderStatus.CANCELLED,),
        OrderStatus.CANCELLED: (),
    },
)


class OrderRef(NamedTuple):
    """Identifies an order and its client."""

    id: UUID
    client_id: str


class Base(DeclarativeBase):
    type_annotation_map = COLUMN_TYPES


class Product(Base):
    __tablename__ = "product"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[int]  # in minor units of the currency (cents)
    currency: Mapped[str]


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    client_id: Mapped[str]
    idempotency_key: Mapped[str]
    customer_email: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=OrderStatus.PENDING.value)
    amount: Mapped[int]  # in minor units of the currency (cents)
    currency: Mapped[str]
    payment_method: Mapped[str]
    # The payment's id is created with the order, so that every call about the payment has the same id.
    payment_id: Mapped[UUID] = mapped_column(server_default=func.uuidv7())
    # The version of the payment's status that was applied last. A report of an older version is ignored.
    payment_version: Mapped[int] = mapped_column(server_default="0")
    paid_amount: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None]
    # The version of the order's event that was published last. The version increases by exactly one with each event.
    version: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    cancelling_at: Mapped[datetime | None]


class OrderLine(Base):
    __tablename__ = "order_line"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[str] = mapped_column(ForeignKey("product.id"))
    quantity: Mapped[int]
    unit_price: Mapped[int]  # the price when the order was placed, in minor units of the currency
