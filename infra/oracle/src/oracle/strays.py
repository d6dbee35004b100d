"""What belongs to no order: charges, payments, mails and webhooks that nobody asked for, and orders beyond the first.

Each order's file takes what belongs to it. What a system has beyond that is a stray; the totals say whether there are
any, and only then are they looked for.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

from oracle.databases import Database, Snapshots
from oracle.findings import Offender
from oracle.invariants import mails, money, orders, webhooks
from oracle.invariants.registry import Invariant
from oracle.outside import Outside, event_id_of

type Strays = AsyncIterator[tuple[Invariant, Offender]]

PAGE = 1000
_REPEATED = """
    SELECT id::text, first::text, idempotency_key FROM (
        SELECT id, idempotency_key, created_at, lag(id) OVER key AS first, lag(created_at) OVER key AS before
        FROM orders WINDOW key AS (PARTITION BY client_id, idempotency_key ORDER BY created_at)
    ) AS ordered WHERE created_at - before < interval '24 hours' LIMIT 1000
"""
_ANSWERED_WITHOUT_ORDER = """
    SELECT client, key, body FROM idempotency_record AS record WHERE NOT EXISTS (
        SELECT FROM orders WHERE client_id = record.client AND idempotency_key = record.key
    ) LIMIT 1000
"""
_WITHOUT_ROW = """
    SELECT DISTINCT aggregate_id FROM outbox WHERE stream = $1
        AND NOT EXISTS (SELECT FROM {table} WHERE {table}.id::text = outbox.aggregate_id) LIMIT 1000
"""
_WITHOUT_EVENT = """
    SELECT id::text FROM provider_event WHERE status = 'published' AND received_at > now() - interval '7 days'
        AND NOT EXISTS (
            SELECT FROM outbox WHERE stream = 'events:webhook-ingest' AND aggregate_id = provider_event.id::text
        ) LIMIT 1000
"""
_TABLES: Mapping[str, str] = {"orders": "orders", "payments": "payment", "webhook-ingest": "provider_event"}
_TOTALS: Mapping[str, tuple[str, str]] = {
    "payments": ("payments", "SELECT count(*) FROM payment"),
    "mails": ("notifications", "SELECT count(*) FROM mail WHERE order_id IS NOT NULL"),
    "deliveries": ("notifications", "SELECT count(*) FROM webhook_delivery"),
}


async def always(databases: Snapshots) -> Strays:
    """Those inside one database, which never are there."""
    for row in await databases["orders"].fetch(_REPEATED):
        problem = f"is a second order for key {row['idempotency_key']!r}; the first is {row['first']}"
        yield orders.one_order_per_key, Offender(row["id"], problem)
    for row in await databases["orders"].fetch(_ANSWERED_WITHOUT_ORDER):
        problem = f"an answer is kept for key {row['key']!r} of {row['client']}, but no order has that"
        yield orders.one_order_per_key, Offender(row["body"].decode(errors="replace")[:60], problem)
    for service, table in _TABLES.items():
        for row in await databases[service].fetch(_WITHOUT_ROW.format(table=table), f"events:{service}"):
            yield orders.event_versions_have_no_gaps, Offender(row["aggregate_id"], "has events, but no row")
    for row in await databases["webhook-ingest"].fetch(_WITHOUT_EVENT):
        yield orders.event_versions_have_no_gaps, Offender(row["id"], "is published, but has no event")


async def once_quiet(
    databases: Snapshots, outside: Outside, totals: Mapping[str, int], seen: Mapping[str, int]
) -> Strays:
    """Those between systems. `totals` is how much there is outside, `seen` how much has found its place."""
    inside = {kind: await databases[service].fetchval(query) for kind, (service, query) in _TOTALS.items()}
    for kind, search in _SEARCHES.items():
        if ({**totals, **inside}).get(kind, 0) > seen.get(kind, 0):
            async for stray in search(databases, outside):
                yield stray


async def _payments(databases: Snapshots, _outside: Outside) -> Strays:
    async for rows in databases["payments"].pages("SELECT id::text, order_id::text FROM payment", PAGE):
        unknown = await _unknown(databases["orders"], "orders", "payment_id", [row["id"] for row in rows])
        for row in rows:
            if row["id"] in unknown:
                problem = f"is a payment of order {row['order_id']}, which does not have it"
                yield money.amounts_agree, Offender(row["id"], problem)


async def _mails(databases: Snapshots, _outside: Outside) -> Strays:
    query = "SELECT event_id::text, order_id::text FROM mail WHERE order_id IS NOT NULL"
    async for rows in databases["notifications"].pages(query, PAGE):
        unknown = await _unknown(databases["orders"], "orders", "id", [row["order_id"] for row in rows])
        for row in rows:
            if row["order_id"] in unknown:
                problem = f"is a mail about order {row['order_id']}, which does not exist"
                yield mails.each_event_is_mailed_once, Offender(row["event_id"], problem)


async def _deliveries(databases: Snapshots, _outside: Outside) -> Strays:
    notifications = databases["notifications"]
    async for rows in notifications.pages("SELECT id::text, event_id::text FROM webhook_delivery", PAGE):
        ids = [row["event_id"] for row in rows]
        unknown = await _unknown(notifications, "mail", "event_id", ids)
        unknown = await _unknown(databases["orders"], "outbox", "event_id", sorted(unknown))
        for row in rows:
            if row["event_id"] in unknown:
                yield webhooks.webhooks_say_what_happened, Offender(row["id"], "is about no event of an order")


async def _charges(databases: Snapshots, outside: Outside) -> Strays:
    async for charges in outside.charge_pages():
        unknown = await _unknown(databases["payments"], "payment", "id", [charge.reference for charge in charges])
        for charge in charges:
            if charge.reference in unknown:
                problem = f"is a charge for payment {charge.reference}, which does not exist"
                yield money.payment_agrees_with_the_ledger, Offender(charge.id, problem)


async def _refunds(databases: Snapshots, outside: Outside) -> Strays:
    async for refunds in outside.refund_pages():
        unknown = await _unknown(databases["payments"], "refund", "id", [refund.reference for refund in refunds])
        for refund in refunds:
            if refund.reference in unknown:
                problem = f"is a refund {refund.reference} that payments does not know"
                yield money.refunds_agree_with_the_ledger, Offender(refund.id, problem)


async def _events(databases: Snapshots, outside: Outside) -> Strays:
    async for events in outside.event_pages():
        acknowledged = [event.event_id for event in events if event.is_acknowledged]
        unknown = await _unknown(databases["webhook-ingest"], "provider_event", "event_id", acknowledged)
        for event_id in unknown:
            yield money.acknowledged_reports_are_processed, Offender(event_id, "got a 2xx, but is not stored")


async def _messages(databases: Snapshots, outside: Outside) -> Strays:
    async for messages in outside.message_pages():
        ids = [event_id_of(message.message_id) for message in messages]
        unknown = await _unknown(databases["notifications"], "mail", "event_id", ids)
        unknown = await _unknown(databases["orders"], "outbox", "event_id", sorted(unknown))
        for message in messages:
            if event_id_of(message.message_id) in unknown:
                offender = Offender(message.message_id, "is a mail about no event of an order")
                yield mails.each_event_is_mailed_once, offender


async def _attempts(databases: Snapshots, outside: Outside) -> Strays:
    async for attempts in outside.attempt_pages():
        ids = [attempt.webhook_id for attempt in attempts]
        for webhook_id in await _unknown(databases["notifications"], "webhook_delivery", "id", ids):
            offender = Offender(webhook_id, "arrived at the customer's, but is no delivery")
            yield webhooks.delivered_is_what_the_customer_has, offender


async def _unknown(database: Database, table: str, column: str, values: Sequence[str]) -> set[str]:
    """Those that no row of the table has. All ids are UUIDs but those that the provider gave its events."""
    is_ours = table != "provider_event"
    asked = [value for value in values if _is_uuid(value)] if is_ours else values
    if not asked:
        return set(values)
    cast = "value::uuid" if is_ours else "value"
    known = await database.fetch(
        f"SELECT value FROM unnest($1::text[]) AS value WHERE EXISTS (SELECT FROM {table} WHERE {column} = {cast})",  # noqa: S608  our own names
        asked,
    )
    return set(values) - {row["value"] for row in known}


def _is_uuid(value: str) -> bool:
    return len(value) == len("00000000-0000-0000-0000-000000000000") and not set(value) - set("0123456789abcdef-")


_SEARCHES = {
    "payments": _payments,
    "mails": _mails,
    "deliveries": _deliveries,
    "charges": _charges,
    "refunds": _refunds,
    "events": _events,
    "messages": _messages,
    "attempts": _attempts,
}
"""By what the totals count."""
