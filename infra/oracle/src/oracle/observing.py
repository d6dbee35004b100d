"""Reading the world: one read-only snapshot per database, the ledger and the mailbox, all at the same time."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import aiohttp
import asyncpg

from oracle.snapshots import CONNECT_SECONDS, READ_SECONDS, reason, snapshot
from oracle.sources import NoVerdict, Sources
from oracle.world import (
    Charge,
    DeadEvent,
    Delivery,
    Endpoint,
    InboxEvent,
    Job,
    KeyRecord,
    Mail,
    Mechanics,
    Order,
    OutboxEvent,
    Payment,
    ProviderEvent,
    ReceivedWebhook,
    Refund,
    World,
)

_ORDERS = """
    SELECT id::text, client_id, idempotency_key, payment_id::text, status, amount, currency, paid_amount, version,
        created_at, updated_at
    FROM orders ORDER BY id
"""
_KEY_RECORDS = "SELECT client, key, body FROM idempotency_record ORDER BY client, key"
_PAYMENTS = """
    SELECT id::text, order_id::text, amount, currency, status, provider_charge_id, version, created_at, updated_at
    FROM payment ORDER BY id
"""
_PROVIDER_EVENTS = "SELECT id::text, event_id, status, received_at FROM provider_event ORDER BY id"
_MAILS = """
    SELECT event_id::text, order_id::text, version, client_id, event_type, status, created_at FROM mail ORDER BY id
"""
_ENDPOINTS = "SELECT id::text, client_id, url, events, is_enabled, updated_at FROM webhook_endpoint ORDER BY id"
_DELIVERIES = """
    SELECT id::text, endpoint_id::text, event_id::text, status, sequence, next_attempt_at
    FROM webhook_delivery ORDER BY sequence
"""
_JOBS = """
    SELECT id::text, name, status, attempt, run_at FROM job WHERE status <> 'ready' OR run_at <= now() ORDER BY job.id
"""
_OUTBOX = """
    SELECT event_id::text, stream, type, aggregate_id, aggregate_version, occurred_at, published_at
    FROM outbox ORDER BY seq
"""
_INBOX = "SELECT event_id::text, status, received_at FROM inbox WHERE consumer = $1 ORDER BY inbox.event_id"
_DEAD_EVENTS = "SELECT id::text, event, reason FROM dead_event ORDER BY dead_event.id"


async def observe(sources: Sources) -> World:
    """The world as it is now. Raises `NoVerdict` naming everything that could not be read."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(READ_SECONDS, connect=CONNECT_SECONDS)) as session:
        orders = asyncio.create_task(_read(sources.orders_dsn, "orders", _read_orders))
        payments = asyncio.create_task(_read(sources.payments_dsn, "payments", _read_payments))
        notifications = asyncio.create_task(_read(sources.notifications_dsn, "notifications", _read_notifications))
        ingest = asyncio.create_task(_read(sources.webhook_ingest_dsn, "webhook-ingest", _read_provider_events))
        ledger = asyncio.create_task(_get(session, "the provider's ledger", sources.provider_url, "ledger", _ledger))
        mailbox = asyncio.create_task(_get(session, "the mailbox", sources.mailbox_url, "messages", _message_ids))
        customer = asyncio.create_task(_get_received(session, sources.customer_url))
        await _finished(orders, payments, notifications, ingest, ledger, mailbox, customer)
    (order_rows, key_records), orders_mechanics, now = orders.result()
    payment_rows, payments_mechanics, _ = payments.result()
    (mail_rows, endpoint_rows, delivery_rows), notifications_mechanics, _ = notifications.result()
    event_rows, ingest_mechanics, _ = ingest.result()
    charges, refunds, acknowledged = ledger.result()
    return World(
        now=now,
        orders=order_rows,
        key_records=key_records,
        payments=payment_rows,
        provider_events=event_rows,
        mails=mail_rows,
        services={
            "orders": orders_mechanics,
            "payments": payments_mechanics,
            "notifications": notifications_mechanics,
            "webhook-ingest": ingest_mechanics,
        },
        charges=charges,
        refunds=refunds,
        acknowledged=acknowledged,
        message_ids=mailbox.result(),
        endpoints=endpoint_rows,
        deliveries=delivery_rows,
        received=customer.result(),
        customer_url=sources.customer_url,
    )


async def _finished(*tasks: asyncio.Task[Any]) -> None:
    """Wait for all, so that every source that failed is named at once."""
    await asyncio.wait(tasks)
    failures = [error for task in tasks if isinstance(error := task.exception(), NoVerdict)]
    if failures:
        raise NoVerdict("\n".join(map(str, failures))) from failures[0]


async def _read[R](
    dsn: str, service: str, read: Callable[[asyncpg.Connection], Awaitable[R]]
) -> tuple[R, Mechanics, datetime]:
    """What `read` reads, the chassis' tables and the server's time, in one snapshot of the service's database."""
    async with snapshot(dsn, service) as connection:
        now = await connection.fetchval("SELECT now()")
        return await read(connection), await _read_mechanics(connection, service), now


async def _read_orders(connection: asyncpg.Connection) -> tuple[tuple[Order, ...], tuple[KeyRecord, ...]]:
    orders = tuple(Order(**row) for row in await connection.fetch(_ORDERS))
    records = await connection.fetch(_KEY_RECORDS)
    return orders, tuple(KeyRecord(client=r["client"], key=r["key"], order_id=_field(r["body"], "id")) for r in records)


async def _read_payments(connection: asyncpg.Connection) -> tuple[Payment, ...]:
    return tuple(Payment(**row) for row in await connection.fetch(_PAYMENTS))


async def _read_provider_events(connection: asyncpg.Connection) -> tuple[ProviderEvent, ...]:
    return tuple(ProviderEvent(**row) for row in await connection.fetch(_PROVIDER_EVENTS))


async def _read_notifications(
    connection: asyncpg.Connection,
) -> tuple[tuple[Mail, ...], tuple[Endpoint, ...], tuple[Delivery, ...]]:
    mails = tuple(Mail(**row) for row in await connection.fetch(_MAILS))
    endpoints = tuple(Endpoint(**{**row, "events": tuple(row["events"])}) for row in await connection.fetch(_ENDPOINTS))
    return mails, endpoints, tuple(Delivery(**row) for row in await connection.fetch(_DELIVERIES))


async def _read_mechanics(connection: asyncpg.Connection, service: str) -> Mechanics:
    """A service consumes events under its own name."""
    dead = await connection.fetch(_DEAD_EVENTS)
    return Mechanics(
        jobs=tuple(Job(**row) for row in await connection.fetch(_JOBS)),
        outbox=tuple(OutboxEvent(**row) for row in await connection.fetch(_OUTBOX)),
        inbox=tuple(InboxEvent(**row) for row in await connection.fetch(_INBOX, service)),
        dead_events=tuple(
            DeadEvent(id=row["id"], event_id=_field(row["event"], "event_id"), reason=row["reason"]) for row in dead
        ),
    )


def _field(document: bytes | str, name: str) -> str | None:
    """A string field of a JSON object; None for whatever else it may be."""
    try:
        value = json.loads(document)[name]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None


async def _get[R](session: aiohttp.ClientSession, what: str, base_url: str, path: str, parse: Callable[[Any], R]) -> R:
    try:
        async with session.get(f"{base_url.rstrip('/')}/{path}") as response:
            response.raise_for_status()
            return parse(await response.json())
    except (KeyError, TypeError) as error:
        raise NoVerdict(f"cannot read {what} at {base_url}: its answer has another shape") from error
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise NoVerdict(f"cannot read {what} at {base_url}: {_reason(error)}") from error


async def _get_received(session: aiohttp.ClientSession, customer_url: str) -> tuple[ReceivedWebhook, ...]:
    if not customer_url:
        return ()
    return await _get(session, "the customer's endpoint", customer_url, "received", _received)


def _received(body: Any) -> tuple[ReceivedWebhook, ...]:
    return tuple(
        ReceivedWebhook(
            webhook_id=attempt["webhook_id"],
            event_id=_field(attempt["body"], "id"),
            is_accepted=attempt["status"] is not None and 200 <= attempt["status"] < 300,  # noqa: PLR2004  the 2xx range
        )
        for attempt in body
        if attempt["verified"]
    )


def _ledger(body: Any) -> tuple[tuple[Charge, ...], tuple[Refund, ...], tuple[str, ...]]:
    charges = tuple(
        Charge(id=c["id"], reference=c["reference"], status=c["status"], amount=c["amount"], currency=c["currency"])
        for c in body["charges"]
    )
    refunds = tuple(
        Refund(id=r["id"], charge_id=r["charge_id"], status=r["status"], amount=r["amount"], currency=r["currency"])
        for r in body["refunds"]
    )
    return charges, refunds, tuple(event["event_id"] for event in body["events"] if event["acknowledged"])


def _message_ids(body: Any) -> tuple[str, ...]:
    return tuple(message["message_id"] for message in body)


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"it answered {error.status}"
    return reason(error)
