"""What is still under way, and waiting until nothing is.

Six systems have no common moment. But when two looks in a row see the same, and nothing under way in it, then what
they saw was true of all of them together between the two looks: nothing that was read can go back to what it was.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from oracle.world import CONSUMERS, Delivery, Mechanics, World

FIRST_PAUSE = 0.1  # seconds between two looks; doubled up to the longest
LONGEST_PAUSE = 1.0

OPEN_ORDER = {"pending", "cancelling"}
OPEN_PAYMENT = {"created", "submitting", "submitted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is allowed. `crashes`: interruptions of a mail's sending since the mailbox was emptied.

    Seconds: `stuck_after` for what moves by itself (twice a job's lease of 15 s, then a crash was recovered from),
    `held_after` for an event that waits for an earlier one (the protocol's alarm), `open_after` for orders, payments
    and mails, which may wait for a dependency (the longest back-off of a job, 60 s, and a stuck_after).
    """

    crashes: int = 0
    allow_dead: bool = False
    stuck_after: float = 30.0
    held_after: float = 60.0
    open_after: float = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """Something unfinished: `age` and `limit` in seconds. Over its limit it is stuck."""

    what: str
    id: str
    age: float
    limit: float

    @property
    def is_stuck(self) -> bool:
        return self.age > self.limit


@dataclass(frozen=True, slots=True)
class Settled:
    """The last look. `moving` says why it is no moment to judge by; empty when it is."""

    world: World
    moving: str


async def settle(observe: Callable[[], Awaitable[World]], terms: Terms, *, wait: float) -> Settled:
    """Look until two looks in a row see the same and nothing under way, or for `wait` seconds.

    What is stuck gets the whole wait to come loose. At its end it keeps no one from judging: only what is under way
    within its limits does, since it shows that traffic goes on, or that the wait was too short.
    """
    deadline = time.monotonic() + wait
    pause, world = FIRST_PAUSE, await observe()
    while True:
        await asyncio.sleep(pause)
        before, world = world, await observe()
        is_same, unfinished = before == world, list(under_way(world, terms))
        if is_same and not unfinished:
            return Settled(world, "")
        if time.monotonic() >= deadline:
            return Settled(world, _moving(unfinished, is_same=is_same))
        pause = min(2 * pause, LONGEST_PAUSE)


def _moving(unfinished: Iterable[UnderWay], *, is_same: bool) -> str:
    if moving := [item for item in unfinished if not item.is_stuck]:
        return f"{tally(moving)} under way"
    return "" if is_same else "one look differs from the next"


def under_way(world: World, terms: Terms) -> Iterator[UnderWay]:
    """Everything unfinished. A job that waits for its next attempt is not: what it is about is, and is here."""
    for service, tables in world.services.items():
        yield from _mechanics(world, service, tables, terms)
    yield from _undelivered(world, terms)
    for order in world.orders:
        if order.status in OPEN_ORDER:
            yield UnderWay(what="order", id=order.id, age=world.age(order.updated_at), limit=terms.open_after)
    for payment in world.payments:
        if payment.status in OPEN_PAYMENT:
            yield UnderWay(what="payment", id=payment.id, age=world.age(payment.created_at), limit=terms.open_after)
    for mail in world.mails:
        if mail.status == "pending":
            yield UnderWay(what="mail", id=mail.event_id, age=world.age(mail.created_at), limit=terms.open_after)
    yield from _deliveries(world, terms)
    for event in world.provider_events:
        if event.status == "stored":
            age = world.age(event.received_at)
            yield UnderWay(what="provider event", id=event.event_id, age=age, limit=terms.stuck_after)


def _deliveries(world: World, terms: Terms) -> Iterator[UnderWay]:
    """The first of each endpoint's queue, when it is due or soon will be. One that waits longer waits for its customer,
    and others wait for it: nothing changes meanwhile.
    """
    queues: dict[str, Delivery] = {}
    for delivery in world.deliveries:
        if delivery.status == "pending":
            queues.setdefault(delivery.endpoint_id, delivery)
    for first in queues.values():
        overdue = world.age(first.next_attempt_at)
        if overdue > -terms.stuck_after:
            yield UnderWay(what="webhook", id=first.id, age=max(0.0, overdue), limit=terms.stuck_after)


def _mechanics(world: World, service: str, tables: Mechanics, terms: Terms) -> Iterator[UnderWay]:
    for job in tables.jobs:
        if job.status != "dead":
            name = f"{service} {job.name} {job.id}"
            yield UnderWay(what="job", id=name, age=world.age(job.run_at), limit=terms.stuck_after)
    for event in tables.outbox:
        if event.published_at is None:
            age = world.age(event.occurred_at)
            yield UnderWay(what="unpublished event", id=event.event_id, age=age, limit=terms.stuck_after)
    for arrived in tables.inbox:
        if arrived.status == "held":
            age = world.age(arrived.received_at)
            yield UnderWay(what="held event", id=arrived.event_id, age=age, limit=terms.held_after)


def _undelivered(world: World, terms: Terms) -> Iterator[UnderWay]:
    arrived = {service: arrivals(tables) for service, tables in world.services.items()}
    for event in chain.from_iterable(tables.outbox for tables in world.services.values()):
        if event.published_at and event.event_id not in arrived.get(CONSUMERS.get(event.stream, ""), ()):
            age = world.age(event.published_at)
            yield UnderWay(what="undelivered event", id=event.event_id, age=age, limit=terms.stuck_after)


def arrivals(consumer: Mechanics) -> set[str]:
    """The ids of the events that a service has taken in, be it as dead letters."""
    return {e.event_id for e in consumer.inbox} | {e.event_id for e in consumer.dead_events if e.event_id}


def tally(items: Iterable[UnderWay]) -> str:
    """`2 jobs, 1 order`; `nothing` when there is nothing."""
    counts = Counter(item.what for item in items)
    return ", ".join(plural(count, what) for what, count in counts.items()) or "nothing"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
