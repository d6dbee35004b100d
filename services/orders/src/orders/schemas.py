"""The public schemas of orders: a client's input and the answers."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from chassis.errors.fields import EmailAddress
from pydantic import BaseModel, ConfigDict, Field

MAX_LINES = 50  # this keeps the body of the largest order under 8 KiB
MAX_QUANTITY = 1000  # pieces of a product in one line of an order; a larger number is probably a typing error
MAX_PAGE = 100

type Money = Annotated[int, Field(gt=0, description="In minor units of the currency (cents).")]
type Status = Literal["pending", "confirmed", "cancelling", "cancelled"]
type Paid = Literal["pending", "paid", "unpaid"]


class Input(BaseModel):
    """The input of a client. An unknown field is an error, so that a typo does not go unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class PlaceOrderLine(Input):
    product_id: Annotated[str, Field(min_length=1, max_length=64, examples=["rope"])]
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY)] = 1


class PlaceOrder(Input):
    lines: Annotated[list[PlaceOrderLine], Field(min_length=1, max_length=MAX_LINES)]
    customer_email: Annotated[
        EmailAddress,
        Field(
            examples=["ada@example.com"],
            json_schema_extra={"writeOnly": True},  # error answers omit the value
        ),
    ]
    payment_method: Annotated[
        str,
        Field(
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z0-9_]+$",
            description="The provider's token for a card, never the card's number.",
            examples=["pm_card_ok"],
            json_schema_extra={"writeOnly": True},  # error answers omit the value
        ),
    ]


class ProductView(BaseModel):
    id: str
    name: str
    price: Money
    currency: str


class ProductList(BaseModel):
    items: list[ProductView]


class OrderLineView(BaseModel):
    product_id: str
    quantity: int
    unit_price: Money


class OrderView(BaseModel):
    id: UUID
    status: Status
    amount: Money
    currency: str
    lines: list[OrderLineView]
    reason: str | None = Field(description="Why the order is cancelled or cancelling; null otherwise.")
    created_at: datetime
    updated_at: datetime


class PaymentView(BaseModel):
    order_id: UUID
    status: Paid = Field(
        description="`pending`: the payment is not settled. `paid`: the amount is captured. `unpaid`: the payment "
        "failed, or was cancelled or refunded."
    )
    detail: str | None = Field(
        description="The payment's status in the payments service; null in a degraded answer, and until the payments "
        "service has the payment.",
        examples=["captured"],
    )
    reason: str | None = Field(description="Why the payment failed or was cancelled; null otherwise.")
    as_of: datetime = Field(description="The time at which this status was known.")
    degraded: bool = Field(
        description="True if the payments service did not answer, or was not called because an operator switched the "
        "call off. The status is then the last one that the order knows, and `as_of` is the time of the order's last "
        "change."
    )


class OrderSummary(BaseModel):
    id: UUID
    status: Status
    amount: Money
    currency: str
    created_at: datetime


class OrderPage(BaseModel):
    items: list[OrderSummary]
    next_cursor: str | None = Field(description="Pass this as `cursor` to get the next page; null on the last page.")
