"""The schemas of webhook-ingest: its answer, and the contents of a provider's event."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

# This type refuses control characters: PostgreSQL cannot store NUL in text or JSON, and an id or a code never needs
# such characters.
type Text = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]

# A number that is not negative and fits into PostgreSQL's bigint, for amounts and versions.
type Number = Annotated[int, Field(ge=0, lt=2**63)]


class Received(BaseModel):
    """The answer to a stored webhook. `duplicate` means that the webhook was stored before, so the sender need do
    nothing.
    """

    status: Literal["accepted", "duplicate"]


class ProviderObject(BaseModel):
    """The charge or refund of an event. `reference` is our own id of the payment or refund."""

    id: Text
    reference: Text
    object_version: Number
    amount: Number
    failure_code: Text | None = None


class ProviderPayload(BaseModel):
    """The type of any payment provider's event. The type is parsed first, because this service knows the fields of
    `data` for only a few types.
    """

    type: Text


class ProviderObjectPayload(BaseModel):
    """An event of a known type. Unknown fields are ignored here and stay in the stored body."""

    data: ProviderObject
