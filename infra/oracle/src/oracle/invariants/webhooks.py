"""What holds of the webhooks about an order.

Of real customers only our side is known. What arrived is known of the simulated one, and compared for the endpoints
whose URL leads there.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise, product

from oracle.case import Case, Parcel
from oracle.findings import Offender
from oracle.invariants.orders import differences
from oracle.invariants.registry import invariant
from oracle.rows import Delivery, Event
from oracle.terms import Terms, unexcused

OVERLAP = timedelta(seconds=5)  # a statement's time-out: by then a change of an endpoint has committed


@invariant("each order event has one delivery per endpoint that listens", "order event", "delivery")
def each_event_goes_to_its_listeners(case: Case, _terms: Terms) -> Iterator[Offender]:
    """One delivery, and so one webhook id, per (endpoint, event) that the endpoint asked for.

    Judged for the events since the endpoint's last change: what it listened to before is not kept.
    """
    made = Counter((parcel.delivery.endpoint_id, parcel.delivery.event_id) for parcel in case.parcels)
    written = [letter.mail for letter in case.letters if letter.mail]
    for mail, endpoint in product(written, case.endpoints):
        is_owed = endpoint.is_enabled and mail.event_type in endpoint.events
        number = made[endpoint.id, mail.event_id]
        if is_owed and mail.created_at > endpoint.updated_at + OVERLAP and number != 1:
            yield Offender(mail.event_id, f"has {number} deliveries to endpoint {endpoint.id}")


@invariant("a webhook counts as delivered where its customer has it", "delivery", "delivered", "verified attempt")
def delivered_is_what_the_customer_has(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Delivered exactly where the customer verified the webhook and said 2xx. One whose 2xx was lost is sent again, so
    that its last attempt had another end.
    """
    for parcel in _seen(case):
        delivery, attempts = parcel.delivery, parcel.attempts
        if delivery.status == "delivered" and not any(attempt.is_accepted for attempt in attempts):
            yield Offender(delivery.id, "is delivered, but the customer never accepted it")
        if delivery.status in {"pending", "dead"} and attempts and attempts[-1].is_accepted:
            yield Offender(delivery.id, f"is {delivery.status}, but the customer accepted it")


@invariant("a webhook is accepted again only after an interruption", "verified attempt", always=True)
def webhook_copies_have_a_cause(case: Case, terms: Terms) -> Iterator[Offender]:
    """Per webhook, as for mails: what the customer has accepted is sent again only if that could not be recorded."""
    for parcel in _seen(case):
        accepted = [attempt.received_at for attempt in parcel.attempts if attempt.is_accepted]
        if number := unexcused(accepted, terms.interruptions):
            problem = f"was accepted {len(accepted)} times, {number} of them without an interruption as a cause"
            yield Offender(parcel.delivery.id, problem)


@invariant("an order's webhooks first arrive in the order of its events", "delivery")
def webhooks_arrive_in_order(case: Case, _terms: Terms) -> Iterator[Offender]:
    """At each endpoint, by the first attempt that the customer accepted. A delivery that was given up and asked for
    again has gone to the end of its queue, and comes when its turn is there.
    """
    first: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for parcel in _seen(case):
        if accepted := [attempt.number for attempt in parcel.attempts if attempt.is_accepted]:
            arrival = (parcel.delivery.sequence, accepted[0], parcel.delivery.id)
            first[parcel.delivery.endpoint_id].append(arrival)
    for arrivals in first.values():
        for (_, number, earlier), (_, other, later) in pairwise(sorted(arrivals)):
            if other < number:
                yield Offender(case.order.id, f"webhook {later} came before webhook {earlier}, which is an earlier one")


@invariant("a webhook says what its event says", "delivery", "verified attempt")
def webhooks_say_what_happened(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Event, order, version, amount, currency and reason; each attempt bears the body as it was written."""
    for parcel in case.parcels:
        delivery, event = parcel.delivery, parcel.event
        if event is not None and (problem := _other_facts(delivery, event)):
            yield Offender(delivery.id, problem)
        if any(attempt.body != delivery.body for attempt in parcel.attempts if parcel.is_seen):
            yield Offender(delivery.id, "arrived with another body than was written")


def _other_facts(delivery: Delivery, event: Event) -> str:
    if (delivery.event_type, delivery.order_id) != (event.type, event.aggregate_id):
        return f"is about another event or order than event {event.event_id}"
    try:
        body = json.loads(delivery.body)
        data, sent_at = body["data"], datetime.fromisoformat(body["timestamp"])
        data_facts = {"order_id": event.aggregate_id, "version": event.aggregate_version}
        data_facts |= {name: event.payload.get(name) for name in ("amount", "currency", "reason")}
        facts = differences(body, {"id": event.event_id, "type": event.type}) or differences(data, data_facts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "has a body that cannot be read"
    if facts:
        return f"says {facts}"
    return "" if sent_at == event.occurred_at else f"says {sent_at}, but its event is of {event.occurred_at}"


def _seen(case: Case) -> list[Parcel]:
    return [parcel for parcel in case.parcels if parcel.is_seen]
