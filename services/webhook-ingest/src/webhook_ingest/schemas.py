"""The shapes of webhook-ingest: its one answer, and what a provider's event looks like inside."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

# PostgreSQL keeps no NUL in text or JSON, and no id or code that is meant has control characters.
type Text = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]

# What PostgreSQL's bigint can hold; money and versions are never below nothing.
type Number = Annotated[int, Field(ge=0, lt=2**63)]


class Received(BaseModel):
    """The answer to a webhook: it is stored, now or before. `duplicate` tells the sender's engineers, nobody else."""

    status: Literal["accepted", "duplicate"]


class ProviderObject(BaseModel):
    """The charge or refund that an event is about; `reference` is the id that we gave it."""

    id: Text
    reference: Text
    object_version: Number
    amount: Number
    failure_code: Text | None = None


class ProviderPayload(BaseModel):
    """Any event of a payment provider: read first, since `data` is of a shape we know only for the types we handle."""

    type: Text


class ProviderObjectPayload(BaseModel):
    """An event that we handle; fields that nobody here reads are kept in the raw body."""

    data: ProviderObject
