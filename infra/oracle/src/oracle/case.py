"""One order's complete file: what every system knows of it. The invariants judge one file at a time."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from oracle.rows import (
    Attempt,
    Charge,
    Delivery,
    Endpoint,
    Event,
    Line,
    Mail,
    Message,
    Order,
    Payment,
    Refund,
    RefundRow,
    Report,
)


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A mail: the event that it is about, the row that is to be sent, and the copies that arrived, in their order. A
    notice to a client has no event, and that of an old mail may be forgotten.
    """

    event: Event | None
    mail: Mail | None
    copies: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A webhook to a customer: the attempts that the customer verified, in the order of arrival. `is_seen`: this is the
    simulated customer, which shows what it got. The event of an old one may be forgotten.
    """

    event: Event | None
    delivery: Delivery
    attempts: tuple[Attempt, ...]
    is_seen: bool


@dataclass(frozen=True, kw_only=True)
class Case:
    """`kept_answer` is the body that is kept under the order's idempotency key; None when there is none. `now` is the
    time of orders' database. `attempts` counts payments' rows about POSTs of a charge. `missing` are the ids of the
    events that their consumers have not taken in, be it as dead letters. `endpoints` are the client's.
    """

    now: datetime
    order: Order
    lines: tuple[Line, ...]
    kept_answer: dict[str, object] | None
    events: tuple[Event, ...]
    payment: Payment | None
    payment_events: tuple[Event, ...]
    attempts: int
    refund_rows: tuple[RefundRow, ...]
    charges: tuple[Charge, ...]
    refunds: tuple[Refund, ...]
    reports: tuple[Report, ...]
    letters: tuple[Letter, ...]
    parcels: tuple[Parcel, ...]
    endpoints: tuple[Endpoint, ...]
    missing: Collection[str]

    @cached_property
    def captured(self) -> list[Charge]:
        return [charge for charge in self.charges if charge.status == "captured"]

    @cached_property
    def kept(self) -> list[Charge]:
        """Captured, and no refund of it succeeded or is under way."""
        gone = {refund.charge_id for refund in self.refunds if refund.status != "failed"}
        return [charge for charge in self.captured if charge.id not in gone]

    @cached_property
    def net(self) -> int:
        """Captured charges less what was refunded of them."""
        captured = {charge.id for charge in self.captured}
        refunds = (refund for refund in self.refunds if refund.status == "succeeded" and refund.charge_id in captured)
        return sum(charge.amount for charge in self.captured) - sum(refund.amount for refund in refunds)

    def age(self, since: datetime) -> float:
        """Seconds from then to this file's moment."""
        return (self.now - since).total_seconds()

    def tally(self) -> Counter[str]:
        """How much of everything is in the file: what a verdict rests on."""
        copies = [len(letter.copies) for letter in self.letters]
        published = [event.event_id for event in self.all_events if event.published_at is not None]
        return Counter(
            {
                "order": 1,
                "confirmed order": self.order.status == "confirmed",
                "cancelled order": self.order.status == "cancelled",
                "line": len(self.lines),
                "kept answer": self.kept_answer is not None,
                "order event": len(self.events),
                "payment event": len(self.payment_events),
                "payment": self.payment is not None,
                "charge attempt": self.attempts,
                "charge": len(self.charges),
                "captured charge": len(self.captured),
                "unrefunded charge": len(self.kept),
                "refund": len(self.refunds),
                "charged": sum(charge.amount for charge in self.captured),
                "refunded": sum(refund.amount for refund in self.refunds if refund.status == "succeeded"),
                "paid": self.order.paid_amount,
                "provider event": len(self.reports),
                "acknowledged": sum(report.is_acknowledged for report in self.reports),
                "published": len(published),
                "arrived": sum(event_id not in self.missing for event_id in published),
                "mail": sum(letter.mail is not None for letter in self.letters),
                "dead mail": sum(letter.mail is not None and letter.mail.status == "dead" for letter in self.letters),
                "copy": sum(copies),
                "repeated mail": sum(number > 1 for number in copies),
                "delivery": len(self.parcels),
                "delivered": sum(parcel.delivery.status == "delivered" for parcel in self.parcels),
                "verified attempt": sum(len(parcel.attempts) for parcel in self.parcels),
            }
        )

    @property
    def transfers(self) -> list[Charge | Refund]:
        return [*self.charges, *self.refunds]

    @property
    def all_events(self) -> list[Event]:
        published = [event for report in self.reports for event in report.published]
        return [*self.events, *self.payment_events, *published]
