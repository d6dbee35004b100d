"""The public schemas of the payments service. Its callers are other services, such as orders."""

from typing import Annotated, Literal
from uuid import UUID

from chassis.errors.fields import Amount
from pydantic import BaseModel, ConfigDict, Field


class RequestPayment(BaseModel):
    """A payment to make. The caller chooses `payment_id`, which is the idempotency key, so the request is safe to
    repeat.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    payment_id: UUID
    order_id: UUID
    amount: Amount
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="The currency's code in ISO 4217.")]
    payment_method: Annotated[
        str,
        Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_]+$", json_schema_extra={"writeOnly": True}),
    ]


class VoidPayment(BaseModel):
    """A request to bring a payment's net amount to zero. The request is allowed in any state of the payment, even
    before the payment was requested.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    order_id: UUID
    amount: Amount
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="The currency's code in ISO 4217.")]


class PaymentView(BaseModel):
    id: UUID
    order_id: UUID
    status: Literal["created", "submitting", "submitted", "captured", "failed", "canceled", "refunded"]
    amount: int
    currency: str
    version: int = Field(description="Increases with each event of this payment; 0 before the first event.")
    reason: str | None = Field(description="Why the payment failed or was canceled; null otherwise.")
