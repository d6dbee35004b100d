"""The public schemas of the notifications service."""

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
    Field(min_length=1, max_length=50, description="The events that are sent to the endpoint."),
    AfterValidator(_without_repetition),
]
type EndpointUrl = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description="An https URL at a public address, without user name and password.",
        examples=["https://shop.example.com/webhooks"],
    ),
]


class MailView(BaseModel):
    id: UUID
    order_id: UUID
    event: str = Field(description="The event that the mail reports.", examples=["order.confirmed"])
    recipient: str
    subject: str
    status: Literal["pending", "sent", "dead"]
    reason: str | None = Field(description="Why the mail is dead; null otherwise.")
    created_at: datetime


class MailList(BaseModel):
    items: list[MailView]


type ContactEmail = Annotated[
    EmailAddress,
    Field(
        description="The address that gets a mail when we disable the endpoint; null for no mail.",
        examples=["webhooks@shop.example.com"],
    ),
]


class Input(BaseModel):
    """The input of a client. An unknown field is an error, so that a typo does not go unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CreateEndpoint(Input):
    url: EndpointUrl
    events: EventFilter = ["order.placed", "order.confirmed", "order.cancelled"]
    enabled: bool = True
    contact_email: ContactEmail | None = None


class UpdateEndpoint(Input):
    """Changes to an endpoint. A field that is missing or null stays unchanged."""

    url: EndpointUrl | None = None
    events: EventFilter | None = None
    enabled: bool | None = Field(None, description="False disables the endpoint and drops its pending deliveries.")
    contact_email: ContactEmail | None = None


class EndpointView(BaseModel):
    id: UUID
    url: str
    events: list[EventType]
    enabled: bool
    disabled_reason: str | None = Field(
        description="Why we disabled the endpoint; null if you disabled the endpoint, or if it is enabled."
    )
    failing_since: datetime | None = Field(
        description="The time since which every attempt has failed; null after a success. If all attempts fail for too "
        "long, we disable the endpoint."
    )
    contact_email: str | None
    created_at: datetime
    updated_at: datetime


class EndpointWithSecret(EndpointView):
    secret: str = Field(
        description="You verify our signatures with this secret. Only this answer contains it.", examples=["whsec_…"]
    )


class EndpointList(BaseModel):
    items: list[EndpointView]


class DeliveryView(BaseModel):
    id: UUID = Field(description="The value of the header `webhook-id` in every attempt.")
    endpoint_id: UUID
    event_id: UUID
    event: EventType
    order_id: UUID
    status: Status
    attempts: int
    last_status: int | None = Field(description="The HTTP status of the latest answer; null if no answer arrived.")
    reason: str | None = Field(description="Why the latest attempt failed; null otherwise.")
    next_attempt_at: datetime | None = Field(
        description="The earliest time of the next attempt; null unless the delivery is pending. The attempt also "
        "waits for earlier deliveries to this endpoint."
    )
    created_at: datetime
    settled_at: datetime | None


class DeliveryPage(BaseModel):
    items: list[DeliveryView]
    next_cursor: UUID | None = Field(description="Pass this as `cursor` to get the next page; null on the last page.")
