"""What holds inside one database: an order, its lines, its kept answer, and the events of an order and its payment."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from oracle.case import Case
from oracle.findings import Offender
from oracle.invariants.registry import invariant
from oracle.rows import Event
from oracle.terms import Terms

KEY_RETENTION = timedelta(hours=24)  # protocol: a client's key is its own again after that
OUTBOX_RETENTION = timedelta(days=7)  # protocol: an older event may be forgotten

_HISTORIES: Mapping[str, Sequence[Sequence[str]]] = {
    "pending": [["placed"]],
    "confirmed": [["placed", "confirmed"]],
    "cancelling": [["placed"], ["placed", "confirmed"]],
    "cancelled": [["placed", "cancelled"], ["placed", "confirmed", "cancelled"]],
    "captured": [["captured"]],
    "failed": [["failed"]],
    "canceled": [["canceled"]],
    "refunded": [["captured", "refunded"]],
}
"""The events that an order or a payment in this state has published. Other states of a payment have none."""
_ORDER_STATUS = {"placed": "pending", "confirmed": "confirmed", "cancelled": "cancelled"}


@invariant("one order per client and idempotency key", "order", "kept answer", always=True)
def one_order_per_key(case: Case, _terms: Terms) -> Iterator[Offender]:
    """As long as a key is remembered, the answer that is kept under it names the order."""
    order, answer = case.order, case.kept_answer
    is_recent = case.now - order.created_at < KEY_RETENTION
    if is_recent and answer is None:
        yield Offender(order.id, f"no answer is kept for key {order.idempotency_key!r}")
    elif is_recent and answer is not None and answer.get("id") != order.id:
        yield Offender(order.id, f"the answer kept for key {order.idempotency_key!r} names order {answer.get('id')}")


@invariant("a kept answer shows its order as it was placed", "kept answer", always=True)
def kept_answer_shows_the_order(case: Case, _terms: Terms) -> Iterator[Offender]:
    """A repeated request gets the amount, the currency and the lines that the order has."""
    answer, order = case.kept_answer, case.order
    if answer is None or answer.get("id") != order.id:
        return
    lines = [
        {"product_id": line.product_id, "quantity": line.quantity, "unit_price": line.unit_price} for line in case.lines
    ]
    wanted = {"status": "pending", "amount": order.amount, "currency": order.currency, "lines": lines}
    if differing := differences(answer, wanted):
        yield Offender(order.id, f"its kept answer says {differing}")


@invariant("an order's lines add up to its amount", "order", "line", always=True)
def lines_add_up(case: Case, _terms: Terms) -> Iterator[Offender]:
    total = sum(line.quantity * line.unit_price for line in case.lines)
    if not case.lines:
        yield Offender(case.order.id, "has no lines")
    elif total != case.order.amount:
        yield Offender(case.order.id, f"is over {case.order.amount}, but its lines add up to {total}")


@invariant("event versions have no gaps", "order event", "payment event", "provider event", always=True)
def event_versions_have_no_gaps(case: Case, _terms: Terms) -> Iterator[Offender]:
    """An aggregate's events count from 1 (or from the oldest still kept) to the version that its row has."""
    order, payment = case.order, case.payment
    aggregates = [(order.id, order.version, order.created_at, order.updated_at, case.events)]
    if payment is not None:
        aggregates.append((payment.id, payment.version, payment.created_at, payment.updated_at, case.payment_events))
    published = [(report.stored, report.published) for report in case.reports if report.stored]
    aggregates += [
        (row.id, 1, row.received_at, row.received_at, events) for row, events in published if row.status == "published"
    ]
    forgotten_before = case.now - OUTBOX_RETENTION
    for aggregate, version, created_at, changed_at, events in aggregates:
        found = [event.aggregate_version for event in events]
        if not found and changed_at < forgotten_before:
            continue
        first = found[0] if found and created_at < forgotten_before else 1
        if found != list(range(first, version + 1)):
            yield Offender(aggregate, f"is at version {version}, but its events are {found}")


@invariant("events tell the states that were gone through", "order event", "payment event", always=True)
def events_tell_the_states(case: Case, _terms: Terms) -> Iterator[Offender]:
    """A confirmed order's last event says that it is confirmed, and so on; each event carries the state it tells of."""
    aggregates = [(case.order.id, "order", case.order.status, case.events)]
    if case.payment is not None:
        aggregates.append((case.payment.id, "payment", case.payment.status, case.payment_events))
    for aggregate, noun, status, events in aggregates:
        told = [event.type.removeprefix(f"{noun}.") for event in events]
        possible = _HISTORIES.get(status, [[]])
        is_whole = bool(events) and events[0].aggregate_version == 1
        if events and (told not in possible if is_whole else told[-1] not in {history[-1] for history in possible}):
            yield Offender(aggregate, f"is {status}, but its events say {', '.join(told)}")
        for event, kind in zip(events, told, strict=True):
            if event.payload.get("status") != (_ORDER_STATUS.get(kind, kind) if noun == "order" else kind):
                yield Offender(event.event_id, f"is {event.type}, but carries status {event.payload.get('status')!r}")


@invariant("events carry the facts of what they are about", "order event", "payment event", "provider event")
def events_carry_the_facts(case: Case, _terms: Terms) -> Iterator[Offender]:
    """Ids, amount and currency, an order's client and address; of the provider's reports what its ledger says."""
    order, payment = case.order, case.payment
    facts = {
        "order_id": order.id,
        "client_id": order.client_id,
        "customer_email": order.customer_email,
        "amount": order.amount,
        "currency": order.currency,
    }
    yield from _other_facts(case.events, facts)
    if payment is not None:
        facts = {
            "payment_id": payment.id,
            "order_id": payment.order_id,
            "amount": payment.amount,
            "currency": payment.currency,
        }
        yield from _other_facts(case.payment_events, facts)
    transfers = {transfer.id: transfer for transfer in case.transfers}
    for report in case.reports:
        for event in report.published:
            if event.type != f"provider.{report.type}":
                yield Offender(event.event_id, f"is {event.type}, but the provider reported {report.type}")
            facts = {"raw_event_id": report.event_id, "reference": report.reference}
            if transfer := transfers.get(str(event.payload.get("provider_id"))):
                facts |= {"reference": transfer.reference, "amount": transfer.amount}
            else:
                yield Offender(event.event_id, f"({event.type}) names no charge or refund of the ledger")
            yield from _other_facts([event], facts)


@invariant("published events reach their consumer", "published", "arrived", always=True)
def published_events_arrive(case: Case, terms: Terms) -> Iterator[Offender]:
    """Every published event is in the inbox of the service that it is for, or in that service's dead events."""
    for event in case.all_events:
        published_at = event.published_at if event.event_id in case.missing else None
        if published_at is not None and case.age(published_at) > terms.stuck_after:
            yield Offender(event.event_id, f"({event.type}) was published and has not arrived")


def _other_facts(events: Sequence[Event], facts: Mapping[str, object]) -> Iterator[Offender]:
    for event in events:
        if differing := differences(event.payload, facts):
            yield Offender(event.event_id, f"({event.type}) carries {differing}")


def differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """`amount 1 instead of 5000`; empty when everything that is wanted is there."""
    return ", ".join(
        f"{name} {found.get(name)!r} instead of {value!r}" for name, value in wanted.items() if found.get(name) != value
    )
