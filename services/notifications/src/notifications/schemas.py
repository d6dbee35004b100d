"""The public shapes of notifications."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from chassis.errors.fields import EmailAddress
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_PAGE = 100

type EventType = Literal["order.placed", "order.confirmed", "order.cancelled"]
type Status = Literal["pending", "delivered", "dead", "disabled"]


def _without_repetition(events: list[EventType]) -> list[EventType]:
    return list(dict.fromkeys(events))


type EventFilter = Annotated[
    list[EventType],
    Field(min_length=1, max_length=50, description="The events to be told of."),
    AfterValidator(_without_repetition),
]
type EndpointUrl = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description="https, at a public address, without user name and password.",
        examples=["https://shop.example.com/webhooks"],
    ),
]


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


type ContactEmail = Annotated[
    EmailAddress,
    Field(
        description="Who gets a mail when the endpoint is disabled because of what it answers; null: nobody.",
        examples=["webhooks@shop.example.com"],
    ),
]


class Input(BaseModel):
    """What a client sends: a field that is not known is an error, since a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CreateEndpoint(Input):
    url: EndpointUrl
    events: EventFilter = ["order.placed", "order.confirmed", "order.cancelled"]
    enabled: bool = True
    contact_email: ContactEmail | None = None


class UpdateEndpoint(Input):
    """What is left out or null stays as it is."""

    url: EndpointUrl | None = None
    events: EventFilter | None = None
    enabled: bool | None = Field(None, description="When false, what has not been delivered yet never will be.")
    contact_email: ContactEmail | None = None


class EndpointView(BaseModel):
    id: UUID
    url: str
    events: list[EventType]
    enabled: bool
    disabled_reason: str | None = Field(description="Why it was disabled, if not by you; null otherwise.")
    failing_since: datetime | None = Field(
        description="Since when every attempt has failed; null while they succeed. Long enough, and it is disabled."
    )
    contact_email: str | None
    created_at: datetime
    updated_at: datetime


class EndpointWithSecret(EndpointView):
    secret: str = Field(description="Verifies our signatures. Shown in this answer only.", examples=["whsec_…"])


class EndpointList(BaseModel):
    items: list[EndpointView]


class DeliveryView(BaseModel):
    id: UUID = Field(description="The `webhook-id` of every attempt.")
    endpoint_id: UUID
    event_id: UUID
    event: EventType
    order_id: UUID
    status: Status
    attempts: int
    last_status: int | None = Field(description="The HTTP status of the latest answer; null without one.")
    reason: str | None = Field(description="Why the latest attempt failed; null otherwise.")
    next_attempt_at: datetime | None = Field(description="Not before this, and after earlier ones; null once settled.")
    created_at: datetime
    settled_at: datetime | None


class DeliveryPage(BaseModel):
    items: list[DeliveryView]
    next_cursor: UUID | None = Field(description="Give it as `cursor` to get the next page; null on the last one.")
