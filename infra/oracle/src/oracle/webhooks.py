"""Customers' webhooks: every event goes to whoever listens, and counts as delivered only where the customer has it.

Of real customers only our side is known. What arrived is known of the simulated one (`customer_url`), and compared for
the endpoints whose URL leads there.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from itertools import product

from oracle.findings import Finding, Offender
from oracle.quiet import plural
from oracle.world import Delivery, ReceivedWebhook, World

OVERLAP = timedelta(seconds=5)  # a statement's time-out: whoever changed an endpoint has committed by then


def each_event_goes_to_who_listens(world: World) -> Finding:
    """One delivery, and so one webhook id, per (endpoint, event) that the endpoint asked for.

    Judged for the events since the endpoint's last change: what it listened to before is not kept.
    """
    copies = Counter((delivery.endpoint_id, delivery.event_id) for delivery in world.deliveries)
    owed = {
        (endpoint.id, mail.event_id): mail.event_type
        for endpoint, mail in product(world.endpoints, world.mails)
        if endpoint.is_enabled
        and endpoint.client_id == mail.client_id
        and mail.event_type in endpoint.events
        and mail.created_at > endpoint.updated_at + OVERLAP
    }

    def offenders() -> Iterator[Offender]:
        for (endpoint_id, event_id), event_type in owed.items():
            if not copies[endpoint_id, event_id]:
                yield Offender(event_id, f"is {event_type}, but has no delivery to endpoint {endpoint_id}")
        for (endpoint_id, event_id), count in copies.items():
            if count > 1:
                yield Offender(event_id, f"has {count} deliveries to endpoint {endpoint_id}, and as many webhook ids")

    counts = f"{plural(len(world.endpoints), 'endpoint')}, {len(world.deliveries)} deliveries"
    return Finding("each order event has one delivery per endpoint that listens", counts, tuple(offenders()))


def delivered_is_what_the_customer_has(world: World) -> Finding:
    """Delivered exactly where the customer verified the webhook and said 2xx; and it got nothing unknown to us."""
    theirs = _reachable(world)
    arrived: defaultdict[str, list[ReceivedWebhook]] = defaultdict(list)
    for webhook in world.received:
        arrived[webhook.webhook_id].append(webhook)

    def offenders() -> Iterator[Offender]:
        for delivery in theirs:
            if problem := _problem(delivery, arrived.get(delivery.id, [])):
                yield Offender(delivery.id, problem)
        for webhook_id in arrived.keys() - {delivery.id for delivery in world.deliveries}:
            yield Offender(webhook_id, "arrived at the customer's, but is no delivery")

    states = Counter(delivery.status for delivery in theirs)
    shown = ", ".join(f"{count} {status}" for status, count in sorted(states.items())) or "0 deliveries"
    counts = f"{shown}; {plural(len(world.received), 'attempt')} verified"
    return Finding("a webhook counts as delivered where its customer has it", counts, tuple(offenders()))


def _reachable(world: World) -> list[Delivery]:
    """The deliveries to the customer whom the oracle can ask; none when there is no such one."""
    asked = {e.id for e in world.endpoints if world.customer_url and e.url.startswith(world.customer_url)}
    return [delivery for delivery in world.deliveries if delivery.endpoint_id in asked]


def _problem(delivery: Delivery, attempts: list[ReceivedWebhook]) -> str | None:
    """What is wrong with a delivery. One whose 2xx was lost is sent again, so its last attempt had another end."""
    accepted = [attempt for attempt in attempts if attempt.is_accepted]
    if other := next((a for a in attempts if a.event_id != delivery.event_id), None):
        return f"is about event {delivery.event_id}, but told of {other.event_id}"
    if delivery.status == "delivered" and not accepted:
        return "is delivered, but the customer never accepted it"
    if delivery.status in {"pending", "dead"} and accepted and accepted[-1] is attempts[-1]:
        return f"is {delivery.status}, but the customer accepted it"
    return None
