"""The shapes of webhook-ingest: its one answer, and what a provider's event looks like inside."""

from typing import Literal

from pydantic import BaseModel


class Received(BaseModel):
    """The answer to a webhook: it is stored, now or before. `duplicate` tells the sender's engineers, nobody else."""

    status: Literal["accepted", "duplicate"]


class ProviderObject(BaseModel):
    """The charge or refund that an event is about; `reference` is the id that we gave it."""

    id: str
    reference: str
    object_version: int
    amount: int
    failure_code: str | None = None


class ProviderPayload(BaseModel):
    """A payment provider's event; fields that nobody here reads are kept in the raw body."""

    type: str
    data: ProviderObject
