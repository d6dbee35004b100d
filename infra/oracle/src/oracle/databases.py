"""Reading the four databases, each in one read-only snapshot: pages of rows, and what belongs to them."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from oracle.rows import (
    CONSUMERS,
    Delivery,
    Endpoint,
    Event,
    Line,
    Mail,
    Order,
    Payment,
    ProviderEvent,
    RefundRow,
)
from oracle.snapshots import snapshot, unreadable

_ORDERS = """
    SELECT id::text, client_id, idempotency_key, customer_email, payment_id::text, status, amount, currency,
        paid_amount, reason, version, created_at, updated_at
    FROM orders ORDER BY id
"""
_LINES = """
    SELECT order_id::text AS owner, product_id, quantity, unit_price FROM order_line
    WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id, position
"""
_KEPT_ANSWERS = """
    SELECT o.id::text, r.body FROM orders o
    JOIN idempotency_record r ON r.client = o.client_id AND r.key = o.idempotency_key WHERE o.id = ANY ($1::uuid[])
"""
_EVENTS = """
    SELECT event_id::text, stream, type, aggregate_id, aggregate_version, payload, occurred_at, published_at
    FROM outbox WHERE stream = $1 AND aggregate_id = ANY ($2::text[]) ORDER BY aggregate_id, aggregate_version
"""
_ARRIVED = "SELECT event_id::text FROM inbox WHERE consumer = $1 AND event_id = ANY ($2::uuid[])"
_DEAD_EVENTS = "SELECT event FROM dead_event"
_PAYMENTS = """
    SELECT id::text, order_id::text, amount, currency, status, provider_charge_id, version, created_at, updated_at
    FROM payment WHERE id = ANY ($1::uuid[])
"""
_ATTEMPTS = "SELECT payment_id::text, count(*) FROM charge_attempt WHERE payment_id = ANY ($1::uuid[]) GROUP BY 1"
_REFUNDS = (
    "SELECT id::text, payment_id::text, amount, status FROM refund WHERE payment_id = ANY ($1::uuid[]) ORDER BY n"
)
_PROVIDER_EVENTS = """
    SELECT id::text, event_id, status, received_at FROM provider_event
    WHERE provider = 'payment-provider' AND event_id = ANY ($1::text[])
"""
_MAIL = """
    SELECT event_id::text, order_id::text, version, client_id, event_type, recipient, subject, text, status, created_at
    FROM mail
"""
_ENDPOINTS = "SELECT id::text, client_id, url, events, is_enabled, updated_at FROM webhook_endpoint ORDER BY id"
_DELIVERIES = """
    SELECT d.id::text, endpoint_id::text, event_id::text, event_type, order_id::text, body, status, sequence
    FROM unnest($1::uuid[], $2::uuid[]) AS pair (endpoint_id, event_id)
    JOIN webhook_delivery d USING (endpoint_id, event_id) ORDER BY sequence
"""


class Database:
    """A service's database in one snapshot. Each method raises `NoVerdict` naming the service when it cannot read."""

    def __init__(self, connection: asyncpg.Connection, service: str) -> None:
        self._connection = connection
        self._service = service

    async def fetch(self, query: str, *values: object) -> list[asyncpg.Record]:
        with unreadable(self._service):
            rows: list[asyncpg.Record] = await self._connection.fetch(query, *values)
            return rows

    async def fetchval(self, query: str, *values: object) -> Any:
        [row] = await self.fetch(query, *values)
        return row[0]

    async def pages(self, query: str, size: int) -> AsyncIterator[list[asyncpg.Record]]:
        """All rows, `size` at a time: the server keeps the others."""
        with unreadable(self._service):
            cursor = await self._connection.cursor(query)
        while True:
            with unreadable(self._service):
                rows = await cursor.fetch(size)
            if not rows:
                return
            yield rows


type Snapshots = Mapping[str, Database]
"""By service."""


@asynccontextmanager
async def snapshot_of(dsn: str, service: str) -> AsyncIterator[Database]:
    async with snapshot(dsn, service) as connection:
        yield Database(connection, service)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRows:
    """What orders has about a page of orders, by order."""

    orders: Sequence[Order]
    lines: Mapping[str, tuple[Line, ...]]
    kept_answers: Mapping[str, dict[str, object]]
    events: Mapping[str, tuple[Event, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRows:
    """What payments has about a page of payments, by payment."""

    payments: Mapping[str, Payment]
    attempts: Mapping[str, int]
    refunds: Mapping[str, tuple[RefundRow, ...]]
    events: Mapping[str, tuple[Event, ...]]


async def order_pages(database: Database, size: int) -> AsyncIterator[OrderRows]:
    """All orders, `size` at a time, in the order of their ids."""
    async for rows in database.pages(_ORDERS, size):
        orders = [Order(**row) for row in rows]
        ids = [order.id for order in orders]
        lines = await database.fetch(_LINES, ids)
        kept = await database.fetch(_KEPT_ANSWERS, ids)
        yield OrderRows(
            orders=orders,
            lines=grouped((row["owner"], Line(**{k: v for k, v in row.items() if k != "owner"})) for row in lines),
            kept_answers={row["id"]: document(row["body"]) for row in kept},
            events=await read_events(database, "events:orders", ids),
        )


async def read_payments(database: Database, ids: Sequence[str]) -> PaymentRows:
    payments = [Payment(**row) for row in await database.fetch(_PAYMENTS, ids)]
    refunds = [RefundRow(**row) for row in await database.fetch(_REFUNDS, ids)]
    return PaymentRows(
        payments={payment.id: payment for payment in payments},
        attempts={row["payment_id"]: row["count"] for row in await database.fetch(_ATTEMPTS, ids)},
        refunds=grouped((refund.payment_id, refund) for refund in refunds),
        events=await read_events(database, "events:payments", ids),
    )


async def read_events(database: Database, stream: str, aggregates: Sequence[str]) -> dict[str, tuple[Event, ...]]:
    """The events of these aggregates, by aggregate, in the order of their versions."""
    rows = await database.fetch(_EVENTS, stream, aggregates)
    return grouped((row["aggregate_id"], Event(**{**row, "payload": document(row["payload"])})) for row in rows)


async def arrived(databases: Snapshots, events: Iterable[Event]) -> set[str]:
    """The ids of those events that their consumer has taken in; of dead letters, see `dead_events`."""
    ids: dict[str, list[str]] = {}
    for event in events:
        ids.setdefault(CONSUMERS.get(event.stream, ""), []).append(event.event_id)
    found: set[str] = set()
    for consumer, wanted in ids.items():
        if consumer:
            found |= {row["event_id"] for row in await databases[consumer].fetch(_ARRIVED, consumer, wanted)}
    return found


async def dead_events(databases: Snapshots) -> set[str]:
    """The ids of all events that a consumer has buried."""
    ids = set()
    for database in databases.values():
        for row in await database.fetch(_DEAD_EVENTS):
            event_id = document(row["event"]).get("event_id")
            ids |= {event_id} if isinstance(event_id, str) else set()
    return ids


async def read_provider_events(database: Database, event_ids: Sequence[str]) -> dict[str, ProviderEvent]:
    """By the provider's id."""
    rows = await database.fetch(_PROVIDER_EVENTS, event_ids)
    return {row["event_id"]: ProviderEvent(**row) for row in rows}


async def read_mails(database: Database, order_ids: Sequence[str]) -> dict[str, tuple[Mail, ...]]:
    """By order, in the order of their versions."""
    rows = await database.fetch(f"{_MAIL} WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id, version", order_ids)
    mails = [Mail(**row) for row in rows]
    return grouped((mail.order_id or "", mail) for mail in mails)


async def notice_pages(database: Database, size: int) -> AsyncIterator[list[Mail]]:
    """All mails that are about no order."""
    async for rows in database.pages(f"{_MAIL} WHERE order_id IS NULL", size):
        yield [Mail(**row) for row in rows]


async def read_endpoints(database: Database) -> dict[str, tuple[Endpoint, ...]]:
    """All there are, by client."""
    endpoints = [Endpoint(**{**row, "events": tuple(row["events"])}) for row in await database.fetch(_ENDPOINTS)]
    return grouped((endpoint.client_id, endpoint) for endpoint in endpoints)


async def read_deliveries(database: Database, pairs: Sequence[tuple[str, str]]) -> list[Delivery]:
    """Those of these (endpoint, event), in the order of their queues."""
    endpoints, events = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return [Delivery(**row) for row in await database.fetch(_DELIVERIES, endpoints, events)] if pairs else []


def document(text: bytes | str) -> dict[str, object]:
    """A JSON object; an empty one for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def grouped[R](pairs: Iterable[tuple[str, R]]) -> dict[str, tuple[R, ...]]:
    groups: dict[str, list[R]] = {}
    for key, row in pairs:
        groups.setdefault(key, []).append(row)
    return {key: tuple(rows) for key, rows in groups.items()}
