"""The invariants, one function each, as the design lists them. Pure: from a world to what was found in it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import chain, pairwise

from oracle.findings import Finding, Offender
from oracle.quiet import Terms, UnderWay, plural, tally, under_way
from oracle.webhooks import delivered_is_what_the_customer_has, each_event_goes_to_who_listens
from oracle.world import ORDERS_STREAM, PAYMENTS_STREAM, WEBHOOKS_STREAM, Charge, OutboxEvent, Refund, World

KEY_RETENTION = timedelta(hours=24)  # protocol: a client's key is its own again after that
OUTBOX_RETENTION = timedelta(days=7)  # protocol: an older event may be forgotten


def judge(world: World, terms: Terms, *, is_quiet: bool) -> list[Finding]:
    """What always holds, and of a quiet world what holds between systems, which hear of things one after the other."""
    always = [
        one_order_per_key(world),
        at_most_one_capture(world),
        event_versions_have_no_gaps(world),
        mail_copies_have_a_cause(world, crashes=terms.crashes),
        nothing_is_stuck(world, terms),
        no_order_is_left_open(world, terms),
        no_dead_letters(world, allowed=terms.allow_dead),
    ]
    return always + [invariant(world) for invariant in ONCE_QUIET] if is_quiet else always


def one_order_per_key(world: World) -> Finding:
    """Exactly one order per (client, idempotency key), and the answer kept under the key names it."""
    by_key = _grouped(world.orders, lambda order: (order.client_id, order.idempotency_key))
    clients = {order.id: order.client_id for order in world.orders}
    answered = {(record.client, record.key, record.order_id) for record in world.key_records}

    def offenders() -> Iterator[Offender]:
        for (client, key), orders in by_key.items():
            for first, second in pairwise(sorted(orders, key=lambda order: order.created_at)):
                if second.created_at - first.created_at < KEY_RETENTION:
                    yield Offender(second.id, f"second order of {client} for key {key!r}; the first is {first.id}")
        for order in world.orders:
            is_recent = world.now - order.created_at < KEY_RETENTION
            if is_recent and (order.client_id, order.idempotency_key, order.id) not in answered:
                yield Offender(order.id, f"no answer with it is kept for key {order.idempotency_key!r}")
        for record in world.key_records:
            if clients.get(record.order_id or "") != record.client:
                yield Offender(record.order_id or "(none)", f"answered for key {record.key!r}, but is no such order")

    counts = f"{plural(len(world.orders), 'order')}, {plural(len(by_key), 'key')}"
    return Finding("one order per client and idempotency key", counts, tuple(offenders()))


def at_most_one_capture(world: World) -> Finding:
    captured = [charge for charge in world.charges if charge.status == "captured"]
    by_reference = _grouped(captured, lambda charge: charge.reference)
    orders = {order.payment_id: order.id for order in world.orders}
    offenders = tuple(
        Offender(orders.get(reference, reference), f"{len(charges)} captured charges: {_ids(charges)}")
        for reference, charges in by_reference.items()
        if len(charges) > 1
    )
    counts = f"{plural(len(captured), 'captured charge')} for {plural(len(by_reference), 'order')}"
    return Finding("at most one captured charge per order", counts, offenders)


def event_versions_have_no_gaps(world: World) -> Finding:
    """An aggregate's events count from 1 (or from the oldest still kept) to the version its row has."""
    outbox = list(_outbox(world))
    versions = _grouped(outbox, lambda event: (event.stream, event.aggregate_id))
    rows = {(ORDERS_STREAM, o.id): (o.version, o.created_at, o.updated_at) for o in world.orders}
    rows |= {(PAYMENTS_STREAM, p.id): (p.version, p.created_at, p.updated_at) for p in world.payments}
    published = [event for event in world.provider_events if event.status == "published"]
    rows |= {(WEBHOOKS_STREAM, e.id): (1, e.received_at, e.received_at) for e in published}
    forgotten_before = world.now - OUTBOX_RETENTION

    def offenders() -> Iterator[Offender]:
        for stream, aggregate in versions.keys() - rows.keys():
            yield Offender(aggregate, f"has events in {stream}, but no row")
        for (stream, aggregate), (version, created_at, changed_at) in rows.items():
            found = sorted(event.aggregate_version for event in versions.get((stream, aggregate), ()))
            if not found and changed_at < forgotten_before:
                continue
            first = found[0] if found and created_at < forgotten_before else 1
            if found != list(range(first, version + 1)):
                yield Offender(aggregate, f"is at version {version}, but its events in {stream} are {found}")

    counts = f"{plural(len(outbox), 'event')} of {plural(len(versions), 'aggregate')}"
    return Finding("event versions have no gaps", counts, tuple(offenders()))


def mail_copies_have_a_cause(world: World, *, crashes: int) -> Finding:
    """Copies of one mail number at most 1 + crashes. Per mail, not in all: one crash interrupts all that are being
    sent at that moment.
    """
    copies = Counter(world.message_ids)
    offenders = tuple(
        Offender(message_id, f"{count} copies") for message_id, count in copies.items() if count > 1 + crashes
    )
    most = max(copies.values(), default=0)
    counts = f"{plural(len(copies), 'mail')}, {len(world.message_ids)} arrived, at most {most} of one"
    return Finding(f"copies of a mail at most 1 + crashes ({crashes})", counts, offenders)


def nothing_is_stuck(world: World, terms: Terms) -> Finding:
    """No job, event or webhook has been due for longer than it may take."""
    return _unfinished("nothing is stuck", world, terms, lambda item: item.what not in _OPEN)


def no_order_is_left_open(world: World, terms: Terms) -> Finding:
    """No order, payment or mail is open beyond its limit: the provider and the mailbox answered us just now."""
    return _unfinished("no order, payment or mail is left open", world, terms, lambda item: item.what in _OPEN)


def no_dead_letters(world: World, *, allowed: bool) -> Finding:
    dead = [
        *(
            Offender(f"{service} job {job.id}", f"{job.name} is dead after {plural(job.attempt, 'attempt')}")
            for service, tables in world.services.items()
            for job in tables.jobs
            if job.status == "dead"
        ),
        *(
            Offender(f"{service} dead event {event.id}", event.reason)
            for service, tables in world.services.items()
            for event in tables.dead_events
        ),
        *(Offender(event.event_id, "dead provider event") for event in world.provider_events if event.status == "dead"),
        *(Offender(mail.event_id, "dead mail") for mail in world.mails if mail.status == "dead"),
    ]
    counts = plural(len(dead), "dead letter") + (" (allowed)" if allowed else "")
    return Finding("no dead letters", counts, () if allowed else tuple(dead))


def confirmed_is_charged_once(world: World) -> Finding:
    money = _Money(world)
    confirmed = [order for order in world.orders if order.status == "confirmed"]
    kept = {order.id: money.kept(order.payment_id) for order in confirmed}
    offenders = tuple(
        Offender(order.id, f"is confirmed, with {len(kept[order.id])} unrefunded charges")
        for order in confirmed
        if len(kept[order.id]) != 1
    )
    counts = f"{plural(len(confirmed), 'confirmed order')}, {plural(sum(map(len, kept.values())), 'unrefunded charge')}"
    return Finding("a confirmed order has exactly one unrefunded charge", counts, offenders)


def money_adds_up(world: World) -> Finding:
    """Charges − refunds = what the order says was paid; nothing for a cancelled one."""
    money = _Money(world)
    settled = [order for order in world.orders if order.status != "cancelling"]

    def offenders() -> Iterator[Offender]:
        for order in settled:
            net = money.net(order.payment_id)
            paid = 0 if order.status == "cancelled" else order.paid_amount
            if net != paid or order.paid_amount != paid:
                problem = f"is {order.status} and says {order.paid_amount} was paid; charges − refunds = {net}"
                yield Offender(order.id, problem)

    charged = sum(charge.amount for charge in world.charges if charge.status == "captured")
    refunded = sum(refund.amount for refund in world.refunds if refund.status == "succeeded")
    paid = sum(order.paid_amount for order in world.orders)
    counts = f"{charged:,} charged − {refunded:,} refunded, {paid:,} paid"
    return Finding("charges − refunds = what orders say was paid", counts, tuple(offenders()))


def payments_agree_with_the_ledger(world: World) -> Finding:
    """Captured here if and only if captured there, and no charge without a payment."""
    money = _Money(world)
    known = {payment.id for payment in world.payments}
    charge_ids = {(charge.reference, charge.id) for charge in world.charges}

    def offenders() -> Iterator[Offender]:
        for payment in world.payments:
            net, was_captured = money.net(payment.id), bool(money.captured(payment.id))
            is_right = (payment.status == "captured") == (net > 0) and (payment.status != "refunded" or was_captured)
            if not is_right:
                yield Offender(payment.id, f"is {payment.status} here, but {net} is captured in the ledger")
            if payment.provider_charge_id and (payment.id, payment.provider_charge_id) not in charge_ids:
                yield Offender(payment.id, f"names charge {payment.provider_charge_id}, which is not in the ledger")
        for charge in world.charges:
            if charge.reference not in known:
                yield Offender(charge.id, f"is a charge for payment {charge.reference}, which does not exist")

    counts = f"{plural(len(world.payments), 'payment')}, {plural(len(world.charges), 'charge')}"
    return Finding("payments agrees with the provider's ledger", counts, tuple(offenders()))


def amounts_agree(world: World) -> Finding:
    """Order, payment, charge and refund name the same order, amount and currency."""
    offenders = (*_orders_and_payments_differ(world), *_payments_and_ledger_differ(world))
    counts = f"{plural(len(world.orders), 'order')}, {plural(len(world.payments), 'payment')}"
    return Finding("amounts and currencies agree everywhere", counts, offenders)


def _orders_and_payments_differ(world: World) -> Iterator[Offender]:
    payments = {payment.id: payment for payment in world.payments}
    for order in world.orders:
        payment = payments.pop(order.payment_id, None)
        wanted = (order.id, order.amount, order.currency)
        if payment is None and order.status == "confirmed":
            yield Offender(order.id, "is confirmed without a payment")
        if payment and (found := (payment.order_id, payment.amount, payment.currency)) != wanted:
            yield Offender(order.id, f"is {wanted[1:]}, but its payment {payment.id} is for {found}")
    for payment in payments.values():
        yield Offender(payment.id, f"is a payment of order {payment.order_id}, which does not have it")


def _payments_and_ledger_differ(world: World) -> Iterator[Offender]:
    payments = {payment.id: (payment.amount, payment.currency) for payment in world.payments}
    currencies = {charge.id: charge.currency for charge in world.charges}
    for charge in world.charges:
        wanted = payments.get(charge.reference)
        if wanted and (charge.amount, charge.currency) != wanted:
            yield Offender(charge.id, f"is {charge.amount} {charge.currency}, but its payment is {wanted}")
    for refund in world.refunds:
        if currencies.get(refund.charge_id) != refund.currency:
            yield Offender(refund.id, f"is in {refund.currency}, its charge {refund.charge_id} is not")


def acknowledged_webhooks_are_processed(world: World) -> Finding:
    """Every provider event that got a 2xx is stored, and published, ignored or dead."""
    statuses = {event.event_id: event.status for event in world.provider_events}
    offenders = tuple(
        Offender(event_id, f"got a 2xx, but is {statuses.get(event_id, 'not stored')}")
        for event_id in world.acknowledged
        if statuses.get(event_id) not in {"published", "ignored", "dead"}
    )
    counts = f"{len(world.acknowledged)} acknowledged, {len(statuses)} stored"
    return Finding("acknowledged provider events are processed", counts, offenders)


def published_events_arrive(world: World) -> Finding:
    """Every published event is in the inbox of the service it is for, or in that service's dead events."""
    undelivered = [item for item in under_way(world, Terms()) if item.what == "undelivered event"]
    published = sum(1 for event in _outbox(world) if event.published_at)
    offenders = tuple(Offender(item.id, "was published and has not arrived") for item in undelivered)
    counts = f"{published} published, {published - len(undelivered)} arrived"
    return Finding("published events reach their consumer", counts, offenders)


def each_order_event_is_mailed_once(world: World) -> Finding:
    """Exactly one Message-ID per (order, event), unless the mail is dead; and no mail about what never happened."""
    events = {e.event_id: e for e in world.services["orders"].outbox if e.type.startswith("order.")}
    dead = {mail.event_id for mail in world.mails if mail.status == "dead"}
    versions: dict[str | None, int] = {order.id: order.version for order in world.orders}
    happened = {m.event_id for m in world.mails if m.version is None or m.version <= versions.get(m.order_id, 0)}
    happened |= events.keys()
    ids = set(world.message_ids)
    arrived = _grouped(ids, event_id_of)

    def offenders() -> Iterator[Offender]:
        for event_id, event in events.items():
            count = len(arrived.get(event_id, ()))
            if count > 1 or (count == 0 and event_id not in dead):
                problem = f"{event.type} (event {event_id}) was mailed under {plural(count, 'Message-ID')}"
                yield Offender(event.aggregate_id, problem)
        for message_id in sorted(ids):
            if event_id_of(message_id) not in happened:
                yield Offender(message_id, "is a mail about no event of an order")

    counts = f"{plural(len(events), 'order event')}, {plural(len(ids), 'Message-ID')}, {plural(len(dead), 'dead mail')}"
    return Finding("each order event is mailed under one Message-ID", counts, tuple(offenders()))


ONCE_QUIET: tuple[Callable[[World], Finding], ...] = (
    confirmed_is_charged_once,
    money_adds_up,
    payments_agree_with_the_ledger,
    amounts_agree,
    acknowledged_webhooks_are_processed,
    published_events_arrive,
    each_order_event_is_mailed_once,
    each_event_goes_to_who_listens,
    delivered_is_what_the_customer_has,
)

_OPEN = {"order", "payment", "mail"}


def event_id_of(message_id: str) -> str:
    """The local part of `<event id@domain>`."""
    return message_id.strip("<>").partition("@")[0]


class _Money:
    """What the provider's ledger says of each payment, in minor units."""

    def __init__(self, world: World) -> None:
        self._charges = _grouped(world.charges, lambda charge: charge.reference)
        self._refunds = _grouped(world.refunds, lambda refund: refund.charge_id)

    def captured(self, payment_id: str) -> list[Charge]:
        return [charge for charge in self._charges.get(payment_id, ()) if charge.status == "captured"]

    def kept(self, payment_id: str) -> list[Charge]:
        """Captured, and no refund of it succeeded or is under way."""
        return [charge for charge in self.captured(payment_id) if not self._refunded(charge, {"pending", "succeeded"})]

    def net(self, payment_id: str) -> int:
        captured = self.captured(payment_id)
        refunds = chain.from_iterable(self._refunded(charge, {"succeeded"}) for charge in captured)
        return sum(charge.amount for charge in captured) - sum(refund.amount for refund in refunds)

    def _refunded(self, charge: Charge, statuses: set[str]) -> list[Refund]:
        return [refund for refund in self._refunds.get(charge.id, ()) if refund.status in statuses]


def _unfinished(name: str, world: World, terms: Terms, belongs: Callable[[UnderWay], bool]) -> Finding:
    unfinished = [item for item in under_way(world, terms) if belongs(item)]
    offenders = tuple(
        Offender(item.id, f"{item.what}, for {item.age:.0f} s; at most {item.limit:.0f} s are allowed")
        for item in unfinished
        if item.is_stuck
    )
    return Finding(name, f"{tally(unfinished)} under way", offenders)


def _outbox(world: World) -> Iterator[OutboxEvent]:
    return chain.from_iterable(tables.outbox for tables in world.services.values())


def _grouped[K, R](rows: Iterable[R], key: Callable[[R], K]) -> dict[K, list[R]]:
    groups: defaultdict[K, list[R]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def _ids(charges: Iterable[Charge]) -> str:
    return ", ".join(charge.id for charge in charges)
