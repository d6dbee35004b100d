"""Putting orders' files together: a page of orders, and with it what every other system has about these."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from oracle.case import Case, Letter, Parcel
from oracle.databases import (
    OrderRows,
    PaymentRows,
    Snapshots,
    arrived,
    dead_events,
    grouped,
    notice_pages,
    order_pages,
    read_deliveries,
    read_endpoints,
    read_events,
    read_mails,
    read_payments,
    read_provider_events,
)
from oracle.outside import Ledger, Outside, event_id_of
from oracle.rows import Endpoint, Event, Mail, Report

PAGE = 500
"""Orders whose files are in memory at the same time: some 10 MB."""


@dataclass(frozen=True, slots=True)
class _Sent:
    letters: dict[str, tuple[Letter, ...]]
    parcels: dict[str, tuple[Parcel, ...]]


@dataclass(slots=True)
class Files:
    """`seen` counts what has found its place in a file: what there is beyond that belongs to no order."""

    databases: Snapshots
    outside: Outside
    customer_url: str
    seen: Counter[str] = field(default_factory=Counter)

    async def cases(self) -> AsyncIterator[list[Case]]:
        """Every order's file, a page at a time."""
        orders = self.databases["orders"]
        now: datetime = await orders.fetchval("SELECT now()")
        endpoints = await read_endpoints(self.databases["notifications"])
        buried = await dead_events(self.databases)
        async for page in order_pages(orders, PAGE):
            payment_ids = [order.payment_id for order in page.orders]
            (payments, ledger, reports), sent = await asyncio.gather(
                self._money(payment_ids), self._sent(page, endpoints)
            )
            events = [*_flat(page.events), *_flat(payments.events), *(e for r in _flat(reports) for e in r.published)]
            missing = {event.event_id for event in events} - buried - await arrived(self.databases, events)
            yield list(_assembled(page, payments, ledger, reports, sent, endpoints, now=now, missing=missing))

    async def notices(self) -> AsyncIterator[list[Letter]]:
        """The mails about no order."""
        async for mails in notice_pages(self.databases["notifications"], PAGE):
            copies = grouped(
                (event_id_of(message.message_id), message)
                for message in await self.outside.messages([mail.event_id for mail in mails])
            )
            self.seen["messages"] += sum(map(len, copies.values()))
            yield [Letter(event=None, mail=mail, copies=copies.get(mail.event_id, ())) for mail in mails]

    async def _money(self, payment_ids: Sequence[str]) -> tuple[PaymentRows, Ledger, dict[str, tuple[Report, ...]]]:
        payments = await read_payments(self.databases["payments"], payment_ids)
        refunds = {row.id: payment_id for payment_id, rows in payments.refunds.items() for row in rows}
        ledger = await self.outside.ledger([*payment_ids, *refunds])
        refunds |= {refund.reference: refund.charge_reference for refund in ledger.refunds}
        ingest = self.databases["webhook-ingest"]
        stored = await read_provider_events(ingest, [event.event_id for event in ledger.events])
        published = await read_events(ingest, "events:webhook-ingest", [row.id for row in stored.values()])
        reports = grouped(
            (
                refunds.get(event.reference, event.reference),
                Report(
                    event_id=event.event_id,
                    type=event.type,
                    reference=event.reference,
                    is_acknowledged=event.is_acknowledged,
                    stored=(row := stored.get(event.event_id)),
                    published=published.get(row.id, ()) if row else (),
                ),
            )
            for event in ledger.events
        )
        self.seen.update(
            payments=len(payments.payments),
            charges=len(ledger.charges),
            refunds=len(ledger.refunds),
            events=len(ledger.events),
        )
        return payments, ledger, reports

    async def _sent(self, page: OrderRows, endpoints: dict[str, tuple[Endpoint, ...]]) -> _Sent:
        notifications = self.databases["notifications"]
        mails = await read_mails(notifications, [order.id for order in page.orders])
        about = {order.id: _event_ids(page.events.get(order.id, ()), mails.get(order.id, ())) for order in page.orders}
        messages = await self.outside.messages([event_id for ids in about.values() for event_id in ids])
        copies = grouped((event_id_of(message.message_id), message) for message in messages)
        pairs = [
            (endpoint.id, event_id)
            for order in page.orders
            for endpoint in endpoints.get(order.client_id, ())
            for event_id in about[order.id]
        ]
        deliveries = await read_deliveries(notifications, pairs)
        attempts = await self.outside.attempts([delivery.id for delivery in deliveries])
        attempts_at = grouped((attempt.webhook_id, attempt) for attempt in attempts)
        asked = {
            e.id for of in endpoints.values() for e in of if self.customer_url and e.url.startswith(self.customer_url)
        }
        by_event = grouped((delivery.event_id, delivery) for delivery in deliveries)
        letters, parcels = {}, {}
        for order in page.orders:
            events = {event.event_id: event for event in page.events.get(order.id, ())}
            written = {mail.event_id: mail for mail in mails.get(order.id, ())}
            letters[order.id] = tuple(
                Letter(event=events.get(id_), mail=written.get(id_), copies=copies.get(id_, ()))
                for id_ in about[order.id]
            )
            parcels[order.id] = tuple(
                Parcel(
                    event=events.get(id_),
                    delivery=delivery,
                    attempts=attempts_at.get(delivery.id, ()),
                    is_seen=delivery.endpoint_id in asked,
                )
                for id_ in about[order.id]
                for delivery in by_event.get(id_, ())
            )
        self.seen.update(
            mails=sum(map(len, mails.values())),
            messages=len(messages),
            deliveries=len(deliveries),
            attempts=len(attempts),
        )
        return _Sent(letters, parcels)


def _assembled(
    page: OrderRows,
    payments: PaymentRows,
    ledger: Ledger,
    reports: dict[str, tuple[Report, ...]],
    sent: _Sent,
    endpoints: dict[str, tuple[Endpoint, ...]],
    *,
    now: datetime,
    missing: set[str],
) -> Iterable[Case]:
    charges = grouped((charge.reference, charge) for charge in ledger.charges)
    refunds = grouped((refund.charge_reference, refund) for refund in ledger.refunds)
    for order in page.orders:
        payment_id = order.payment_id
        yield Case(
            now=now,
            order=order,
            lines=page.lines.get(order.id, ()),
            kept_answer=page.kept_answers.get(order.id),
            events=page.events.get(order.id, ()),
            payment=payments.payments.get(payment_id),
            payment_events=payments.events.get(payment_id, ()),
            attempts=payments.attempts.get(payment_id, 0),
            refund_rows=payments.refunds.get(payment_id, ()),
            charges=charges.get(payment_id, ()),
            refunds=refunds.get(payment_id, ()),
            reports=reports.get(payment_id, ()),
            letters=sent.letters[order.id],
            parcels=sent.parcels[order.id],
            endpoints=endpoints.get(order.client_id, ()),
            missing=missing,
        )


def _event_ids(events: Sequence[Event], mails: Sequence[Mail]) -> list[str]:
    """Of the events that are kept, and of those that are forgotten and have a mail, each once."""
    return list(dict.fromkeys([*(event.event_id for event in events), *(mail.event_id for mail in mails)]))


def _flat[R](groups: Mapping[str, tuple[R, ...]]) -> list[R]:
    return [row for rows in groups.values() for row in rows]
