"""The public shapes of notifications."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field


class MailView(BaseModel):
    id: UUID
    order_id: UUID
    event: str = Field(description="The event that it tells of.", examples=["order.confirmed"])
    recipient: str
    subject: str
    status: Literal["pending", "sent", "dead"]
    reason: str | None = Field(description="Why it is dead; null otherwise.")
    created_at: datetime


class MailList(BaseModel):
    items: list[MailView]
