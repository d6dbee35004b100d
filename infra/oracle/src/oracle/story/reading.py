"""Reading what is kept about one order: a read-only snapshot of each database, and only the columns that are told."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from oracle.snapshots import snapshot
from oracle.sources import Databases
from oracle.story.records import (
    Arrival,
    Attempt,
    DeadEvent,
    Delivery,
    Event,
    Failure,
    Job,
    Mail,
    Mechanics,
    Order,
    Payment,
    ProviderEvent,
    Records,
    Refund,
)

_CLOCK_SKEW = timedelta(hours=1)  # between two database servers; a webhook did not come before its order

_ORDER = """
    SELECT id::text, client_id, customer_email, payment_id::text, status, reason, amount, currency, paid_amount,
        created_at, updated_at, cancelling_at,
        (
            SELECT string_agg(quantity || ' × ' || product_id, ', ' ORDER BY position)
            FROM order_line WHERE order_id = orders.id
        ) AS lines
    FROM orders WHERE id = $1
"""
_PAYMENT = """
    SELECT id::text, status, reason, void, provider_charge_id, created_at, updated_at FROM payment WHERE order_id = $1
"""
_ATTEMPTS = """
    SELECT n, outcome, answer, created_at, ended_at FROM charge_attempt WHERE payment_id = $1 ORDER BY n
"""
_REFUNDS = """
    SELECT id::text, n, amount, status, reason, created_at, updated_at FROM refund WHERE payment_id = $1 ORDER BY n
"""
# The references are in the bodies only, as they were signed. Ids grow with time, so that those before the order are not
# looked at.
_PROVIDER_EVENTS = """
    SELECT id::text, provider, event_id, status, reason, received_at, body FROM provider_event
    WHERE id > $2 AND EXISTS (SELECT FROM unnest($1::text[]) AS r WHERE position(convert_to(r, 'UTF8') IN body) > 0)
    ORDER BY id
"""
_MAILS = """
    SELECT id::text, event_type, recipient, subject, status, reason, created_at, settled_at
    FROM mail WHERE order_id = $1 ORDER BY version
"""
_DELIVERIES = """
    SELECT d.id::text, event_type, url, status, attempts, last_status, reason, d.created_at, settled_at, next_attempt_at
    FROM webhook_delivery d JOIN webhook_endpoint e ON e.id = d.endpoint_id
    WHERE d.client_id = $1 AND order_id = $2 ORDER BY sequence
"""
_EVENTS = """
    SELECT event_id::text, stream, type, aggregate_id, aggregate_version AS version, occurred_at, published_at
    FROM outbox WHERE stream = $1 AND aggregate_id = ANY ($2) ORDER BY aggregate_version
"""
_ARRIVALS = """
    SELECT event_id::text, status, received_at FROM inbox WHERE consumer = $1 AND event_id = ANY ($2::uuid[])
"""
_DEAD_EVENTS = """
    SELECT id::text, found AS event_id, reason, died_at
    FROM dead_event JOIN unnest($1::text[]) AS found ON position(found IN event) > 0 ORDER BY dead_event.id
"""
_JOBS = """
    SELECT id::text, name, status, attempt, max_attempts, run_at, worker
    FROM job WHERE payload @> ANY ($1::jsonb[]) ORDER BY job.id
"""
_FAILURES = """
    SELECT job_id::text, name, attempt, error, failed_at, retry_at
    FROM job_failure WHERE payload @> ANY ($1::jsonb[]) ORDER BY job_failure.id
"""

type About = Mapping[str, Sequence[str]]
"""What jobs of the order may have in their payload, by the name of its field."""


async def read_order(databases: Databases, order_id: UUID) -> Records | None:
    """What is kept about an order; None when there is no such order. Raises `NoVerdict` for an unreadable database."""
    async with AsyncExitStack() as stack:
        orders, payments, notifications, ingest = [
            await stack.enter_async_context(snapshot(dsn, service, application_name="holdfast-explain"))
            for dsn, service in (
                (databases.orders_dsn, "orders"),
                (databases.payments_dsn, "payments"),
                (databases.notifications_dsn, "notifications"),
                (databases.webhook_ingest_dsn, "webhook-ingest"),
            )
        ]
        row = await orders.fetchrow(_ORDER, order_id)
        if row is None:
            return None
        order = Order(**row)
        row = await payments.fetchrow(_PAYMENT, order_id)
        payment = Payment(**row) if row else None
        refunds = [Refund(**row) for row in await payments.fetch(_REFUNDS, UUID(order.payment_id))]
        refund_ids = [refund.id for refund in refunds]
        provider_events = await _provider_events(ingest, [order.payment_id, *refund_ids], order.created_at)
        event_rows = [event.id for event in provider_events]
        mails = tuple(Mail(**row) for row in await notifications.fetch(_MAILS, order_id))
        events = {
            "orders": await _events(orders, "orders", [order.id]),
            "payments": await _events(payments, "payments", [order.payment_id]),
            "webhook-ingest": await _events(ingest, "webhook-ingest", event_rows),
            "notifications": (),
        }
        about: dict[str, tuple[asyncpg.Connection, About]] = {
            "orders": (orders, {"order_id": [order.id]}),
            "payments": (payments, {"payment_id": [order.payment_id], "refund_id": refund_ids}),
            "notifications": (notifications, {"mail_id": [mail.id for mail in mails]}),
            "webhook-ingest": (ingest, {"id": event_rows}),
        }
        event_ids = [event.event_id for found in events.values() for event in found]
        return Records(
            now=await orders.fetchval("SELECT now()"),
            order=order,
            payment=payment,
            attempts=tuple(Attempt(**row) for row in await payments.fetch(_ATTEMPTS, UUID(order.payment_id))),
            refunds=tuple(refunds),
            provider_events=provider_events,
            mails=mails,
            deliveries=tuple(
                Delivery(**row) for row in await notifications.fetch(_DELIVERIES, order.client_id, order_id)
            ),
            services={
                service: await _mechanics(connection, service, events[service], event_ids, whose)
                for service, (connection, whose) in about.items()
            },
        )


async def _events(connection: asyncpg.Connection, service: str, aggregates: Sequence[str]) -> tuple[Event, ...]:
    return tuple(Event(**row) for row in await connection.fetch(_EVENTS, f"events:{service}", aggregates))


async def _mechanics(
    connection: asyncpg.Connection, service: str, events: tuple[Event, ...], event_ids: Sequence[str], about: About
) -> Mechanics:
    """A service consumes events under its own name."""
    payloads = [json.dumps({name: value}) for name, values in about.items() for value in values]
    return Mechanics(
        events=events,
        arrivals=tuple(Arrival(**row) for row in await connection.fetch(_ARRIVALS, service, event_ids)),
        dead_events=tuple(DeadEvent(**row) for row in await connection.fetch(_DEAD_EVENTS, event_ids)),
        jobs=tuple(Job(**row) for row in await connection.fetch(_JOBS, payloads)),
        failures=tuple(Failure(**row) for row in await connection.fetch(_FAILURES, payloads)),
    )


async def _provider_events(
    connection: asyncpg.Connection, references: Sequence[str], since: datetime
) -> tuple[ProviderEvent, ...]:
    rows = await connection.fetch(_PROVIDER_EVENTS, references, _first_id(since - _CLOCK_SKEW))
    found = []
    for row in rows:
        columns = dict(row)
        body = columns.pop("body")
        found.append(ProviderEvent(**columns, type=_type(body, references)))
    return tuple(found)


def _first_id(moment: datetime) -> UUID:
    """Below every UUIDv7 made since: its first 48 bits are milliseconds since 1970."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def _type(body: bytes, references: Iterable[str]) -> str | None:
    """The event's type; None for a body that is not what the provider sends about one of the references."""
    try:
        event = json.loads(body)
        found, reference = event["type"], event["data"]["reference"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and reference in references else None
