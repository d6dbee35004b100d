"""The story: what is kept about an order, as entries in time order. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from urllib.parse import urlsplit

from oracle.story.records import Arrival, Attempt, Delivery, Event, Failure, Job, Mail, Order, ProviderEvent, Records

type Kind = Literal["transition", "call", "breaker", "job", "event", "webhook_in", "webhook_out", "mail"]

_OWN_EVENTS = {"order.confirmed", "order.cancelled"}
"""What orders hears of itself, to invalidate what it has cached."""

_FINAL = {"confirmed", "cancelled"}
_ADDRESS = re.compile(r"(?<![\w.+-])([\w.+-])[\w.+-]*+@([\w-]++\.[\w.-]*\w)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that happened. `took` is in seconds, none where nothing says how long; `is_bad`: it went wrong."""

    at: datetime
    service: str
    kind: Kind
    what: str
    took: float | None = None
    is_bad: bool = False
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """`settled_after` is in seconds from the placing, none for an order that is still on its way."""

    order: Order
    settled_after: float | None
    entries: tuple[Entry, ...]


def tell(records: Records) -> Story:
    """The entries in time order; what has the same time stays in the order of cause and effect."""
    entries = sorted(_entries(records), key=lambda entry: entry.at)
    order = records.order
    ends = [e.at for e in entries if e.kind == "transition" and e.service == "orders"]
    settled = _seconds(order.created_at, ends[-1]) if order.status in _FINAL else None
    return Story(order=order, settled_after=settled, entries=tuple(entries))


def masked(text: str) -> str:
    """The text, of each mail address in it only the first letter and the domain."""
    return _ADDRESS.sub(r"\1…@\2", text)


def _entries(records: Records) -> Iterator[Entry]:
    yield from _order(records)
    yield from _payment(records)
    for service, tables in records.services.items():
        yield from (_event(service, event, records) for event in tables.events)
    yield from (_webhook_in(event, records) for event in records.provider_events)
    yield from (_mail(mail) for mail in records.mails)
    yield from (_webhook_out(delivery) for delivery in records.deliveries)
    for service, tables in records.services.items():
        yield from (_failure(service, failure) for failure in tables.failures)
        yield from (_job(service, job, records.now) for job in tables.jobs)
        for dead in tables.dead_events:
            what = f"event {dead.event_id} is a dead letter: {masked(dead.reason)}"
            details = {"event_id": dead.event_id, "dead_event": dead.id}
            yield Entry(at=dead.died_at, service=service, kind="event", what=what, is_bad=True, details=details)


def _order(records: Records) -> Iterator[Entry]:
    order = records.order
    yield _moved(
        "orders",
        order.created_at,
        "pending",
        f"order pending: {order.lines}, {money(order.amount, order.currency)} by {order.client_id}",
    )
    if order.cancelling_at:
        yield _moved("orders", order.cancelling_at, "cancelling", f"order cancelling: {order.reason}")
    moves = {event.type.removeprefix("order."): event.occurred_at for event in records.services["orders"].events}
    for status in ("confirmed", "cancelled"):
        if at := moves.get(status) or (order.updated_at if order.status == status else None):
            why = f": {order.reason}" if status == "cancelled" and order.reason else ""
            yield _moved("orders", at, status, f"order {status}{why}")


def _payment(records: Records) -> Iterator[Entry]:
    payment = records.payment
    if payment is None:
        return
    moves = {event.type.removeprefix("payment."): event.occurred_at for event in records.services["payments"].events}
    if payment.created_at not in moves.values():  # else it was canceled before it was asked for
        yield _moved("payments", payment.created_at, "created", "payment created")
    for attempt in records.attempts:
        yield _charge(attempt)
    for refund in records.refunds:
        what = f"refund {refund.n} of {money(refund.amount, records.order.currency)}"
        details = {"refund_id": refund.id, "n": refund.n}
        yield _moved("payments", refund.created_at, "requested", f"{what} requested", **details)
        if refund.status != "requested":
            yield Entry(
                at=refund.updated_at,
                service="payments",
                kind="transition",
                what=f"{what} {refund.status}{f': {refund.reason}' if refund.reason else ''}",
                took=_seconds(refund.created_at, refund.updated_at),
                is_bad=refund.status == "failed",
                details={"status": refund.status, **details},
            )
    for status in ("captured", "failed", "canceled", "refunded"):
        if at := moves.get(status) or (payment.updated_at if payment.status == status else None):
            why = f": {payment.reason}" if status == payment.status and payment.reason else ""
            yield _moved("payments", at, status, f"payment {status}{why}")


def _moved(service: str, at: datetime, status: str, what: str, **details: object) -> Entry:
    return Entry(at=at, service=service, kind="transition", what=what, details={"status": status, **details})


def _charge(attempt: Attempt) -> Entry:
    if attempt.outcome == "not_run":
        said = "known not to have run"
    else:
        said = attempt.answer or "no answer recorded; it may have run"
    return Entry(
        at=attempt.created_at,
        service="payments",
        kind="call",
        what=f"charge, attempt {attempt.n}: {said}",
        took=_seconds(attempt.created_at, attempt.ended_at),
        is_bad=attempt.answer is None,
        details={"attempt": attempt.n, "outcome": attempt.outcome, "answer": attempt.answer},
    )


def _consumers(event: Event) -> tuple[str, ...]:
    """Who takes in an event."""
    match event.stream:
        case "events:orders":
            return ("notifications", "orders") if event.type in _OWN_EVENTS else ("notifications",)
        case "events:payments":
            return ("orders",)
        case _:
            return ("payments",)


def _event(service: str, event: Event, records: Records) -> Entry:
    consumers = _consumers(event)
    arrivals = {
        consumer: arrival
        for consumer in consumers
        for arrival in records.services[consumer].arrivals
        if arrival.event_id == event.event_id
    }
    last = max((arrival.received_at for arrival in arrivals.values()), default=None)
    is_there = len(arrivals) == len(consumers)
    where = ", ".join(_whereabouts(consumer, arrivals.get(consumer)) for consumer in consumers)
    return Entry(
        at=event.occurred_at,
        service=service,
        kind="event",
        what=f"event {event.type}, version {event.version} → {where if event.published_at else 'not published yet'}",
        took=_seconds(event.occurred_at, last if is_there else None),
        is_bad=not is_there,
        details={
            "event_id": event.event_id,
            "type": event.type,
            "version": event.version,
            "published_at": event.published_at,
            "received_at": {consumer: arrival.received_at for consumer, arrival in arrivals.items()},
        },
    )


def _whereabouts(consumer: str, arrival: Arrival | None) -> str:
    if arrival is None:
        return f"not yet at {consumer}"
    return f"held by {consumer}" if arrival.status == "held" else consumer


def _webhook_in(event: ProviderEvent, records: Records) -> Entry:
    published = [e.occurred_at for e in records.services["webhook-ingest"].events if e.aggregate_id == event.id]
    why = f" ({event.reason})" if event.reason else ""
    return Entry(
        at=event.received_at,
        service="webhook-ingest",
        kind="webhook_in",
        what=f"webhook {event.type or 'that cannot be read'} from {event.provider}: {event.status}{why}",
        took=_seconds(event.received_at, published[0] if published else None),
        is_bad=event.status not in {"published", "ignored"},
        details={"event_id": event.event_id, "type": event.type, "status": event.status},
    )


def _mail(mail: Mail) -> Entry:
    said = {"pending": "not sent yet", "dead": f"refused for good: {masked(mail.reason or '')}"}
    return Entry(
        at=mail.created_at,
        service="notifications",
        kind="mail",
        what=f"mail “{mail.subject}” to {masked(mail.recipient)}: {said.get(mail.status, mail.status)}",
        took=_seconds(mail.created_at, mail.settled_at),
        is_bad=mail.status != "sent",
        details={"event": mail.event_type, "status": mail.status},
    )


def _webhook_out(delivery: Delivery) -> Entry:
    """Of the URL only the host: a path may be as good as a password."""
    parts = [delivery.status, f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"]
    if delivery.reason or delivery.last_status:
        parts.append(masked(delivery.reason or f"answered {delivery.last_status}"))
    return Entry(
        at=delivery.created_at,
        service="notifications",
        kind="webhook_out",
        what=f"webhook {delivery.event_type} → {urlsplit(delivery.url).hostname}: {', '.join(parts)}",
        took=_seconds(delivery.created_at, delivery.settled_at),
        is_bad=delivery.status != "delivered",
        details={
            "webhook_id": delivery.id,
            "event": delivery.event_type,
            "status": delivery.status,
            "attempts": delivery.attempts,
            "http_status": delivery.last_status,
            "next_attempt_at": delivery.next_attempt_at if delivery.status == "pending" else None,
        },
    )


def _failure(service: str, failure: Failure) -> Entry:
    """A breaker that refuses a call is an attempt of the job that has failed, and one without a call."""
    kind, _, message = failure.error.partition(": ")
    wait = _seconds(failure.failed_at, failure.retry_at)
    what = f"job {failure.name}, attempt {failure.attempt}"
    then = "dead" if wait is None else "taken over" if wait == 0 else f"again in {wait:.1f} s"
    if is_breaker := kind == "BreakerOpen":
        what += f": refused, {message}; {then}"
    else:
        what += f" failed: {masked(failure.error)}; {then}"
    return Entry(
        at=failure.failed_at,
        service=service,
        kind="breaker" if is_breaker else "job",
        what=what,
        is_bad=True,
        details={
            "job": failure.name,
            "job_id": failure.job_id,
            "attempt": failure.attempt,
            "error": masked(failure.error),
            "retry_at": failure.retry_at,
        },
    )


def _job(service: str, job: Job, now: datetime) -> Entry:
    """A job that is still there: it stands last, however long it has been due."""
    due = (job.run_at - now).total_seconds()
    match job.status:
        case "running":
            state = f"attempt {job.attempt} of {job.max_attempts} is running"
        case "dead":
            state = f'is a dead letter after {job.attempt} attempts: CMD="{service} jobs show {job.id}"'
        case _:
            when = f"in {due:.1f} s" if due > 0 else "now"
            state = f"attempt {job.attempt + 1} of {job.max_attempts} is due {when}"
    return Entry(
        at=max(now, job.run_at),
        service=service,
        kind="job",
        what=f"job {job.name} {job.id}: {state}",
        is_bad=job.status == "dead",
        details={"job": job.name, "job_id": job.id, "status": job.status, "attempt": job.attempt},
    )


def money(amount: int, currency: str) -> str:
    return f"{amount / 100:,.2f} {currency}"


def _seconds(since: datetime, until: datetime | None) -> float | None:
    return None if until is None else (until - since).total_seconds()
