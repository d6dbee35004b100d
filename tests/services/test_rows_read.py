"""What a request looks for costs the rows that it returns, whatever the planner knows of its tables."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal
from uuid import UUID

import asyncpg
import notifications.use_cases.deliveries as webhook_deliveries
import pytest
from backends import FreshDatabase
from chassis.config.settings import DatabaseSettings
from chassis.jobs import dead_letters
from chassis.pooling import Database, Session
from chassis.pooling.wakeup import connect
from notifications.models import DeliveryStatus
from notifications.use_cases import endpoints as webhook_endpoints
from notifications.use_cases import list_mails
from orders import use_cases as orders
from payments import use_cases as payments
from sqlalchemy import text

type Known = Literal["nothing", "that they were empty", "all"]
KNOWN: list[Known] = ["nothing", "that they were empty", "all"]
ENDPOINTS_OF_ALL = 20
"""So few that reading all is as good as an index."""
FEW = 150
"""So many that a plan which reads all rows of one client costs too much, and so few that it looks as good as any."""

REPEATS = 7
"""The server plans a prepared statement five times for its values, and may then keep a plan for any."""
OURS, OTHERS, PAGE = 500, 500, 20
"""Rows of the client that asks, and of somebody else."""
MIDDLE = UUID(int=FEW // 2)
DELIVERY = UUID(int=5)

ORDERS = """
INSERT INTO orders (id, client_id, idempotency_key, customer_email, amount, currency, payment_method)
SELECT lpad(to_hex(n), 32, '0')::uuid, CASE WHEN n <= $1::int THEN 'ours' ELSE 'theirs' END, n::text, 'a@b.example', 1,
    'EUR', 'card'
FROM generate_series($2::int, $3) AS n;
"""
LINES = """
INSERT INTO order_line (order_id, position, product_id, quantity, unit_price)
SELECT id, position, 'rope', 1, 1 FROM orders, generate_series(1, 2) AS position
ON CONFLICT DO NOTHING
"""
ENDPOINTS = """
INSERT INTO webhook_endpoint (id, client_id, url, events, secret)
SELECT lpad(to_hex(n), 32, '0')::uuid, CASE WHEN n <= 10 THEN 'ours' ELSE 'theirs' END, 'https://a.example',
    '{order.placed}', 's'
FROM generate_series(1, 20) AS n
ON CONFLICT DO NOTHING
"""
DELIVERIES = """
INSERT INTO webhook_delivery (id, endpoint_id, client_id, event_id, event_type, order_id, body, status)
SELECT lpad(to_hex(n), 32, '0')::uuid, e.id, e.client_id, uuidv7(), 'order.placed', uuidv7(), '{}',
    CASE n % 100 WHEN 0 THEN 'dead' WHEN 1 THEN 'pending' ELSE 'delivered' END
FROM generate_series($1::int, $2) AS n
JOIN webhook_endpoint AS e ON e.id = lpad(to_hex(1 + (n + n / 100) % 20), 32, '0')::uuid
"""
JOBS = """
INSERT INTO job (
    name, queue, priority, payload, payload_version, max_attempts, status, lease_until, worker, attempt
)
SELECT 'j' || n % 10, 'q', 0, '{}', 1, 1, CASE n % 3 WHEN 0 THEN 'ready' WHEN 1 THEN 'running' ELSE 'dead' END,
    CASE n % 3 WHEN 1 THEN now() END, 'w', 1
FROM generate_series($1::int, $2) AS n
"""
PAYMENTS = """
INSERT INTO payment (id, order_id, amount, currency, payment_method)
SELECT lpad(to_hex(n), 32, '0')::uuid, uuidv7(), 1, 'EUR', 'card' FROM generate_series($1::int, $2) AS n
"""
MAILS = """
INSERT INTO mail (event_id, order_id, version, client_id, event_type, recipient, subject, text)
SELECT uuidv7(), lpad(to_hex(n), 32, '0')::uuid, 1, CASE WHEN n <= $1::int THEN 'ours' ELSE 'theirs' END,
    'order.placed', 'a', 'b', 'c'
FROM generate_series($2::int, $3) AS n
"""


def fillings(package: str, first: int, last: int) -> list[tuple[str, tuple[int, ...]]]:
    """What fills the tables with the rows of these numbers."""
    return {
        "orders": [(ORDERS, (OURS, first, last)), (LINES, ()), (JOBS, (first, last))],
        "payments": [(PAYMENTS, (first, last))],
        "notifications": [(ENDPOINTS, ()), (DELIVERIES, (first, last)), (MAILS, (OURS, first, last))],
    }[package]


type Look = Callable[[Session], Awaitable[object]]


def deliveries(**which: object) -> Look:
    given = {"endpoint_id": None, "status": None, "cursor": None, **which}
    return lambda session: webhook_deliveries.list_deliveries(session, client_id="ours", limit=PAGE, **given)


async def two_pages_of_orders(session: Session) -> None:
    first = await orders.list_orders(session, client_id="ours", limit=PAGE, cursor=None)
    await orders.list_orders(session, client_id="ours", limit=PAGE, cursor=first.next_cursor)


CHEAP: dict[str, dict[str, tuple[Look, int]]] = {
    "orders": {
        "an order": (lambda session: orders.find_order(session, MIDDLE, client_id="ours"), 1 + 2),
        "orders": (two_pages_of_orders, 2 * (PAGE + 1)),
        "an order to cancel": (lambda session: orders.cancel_order(session, MIDDLE, client_id="ours"), 10),
        "a dead letter": (lambda session: dead_letters.show(session, 5), 1),
    },
    "payments": {"a payment": (lambda session: payments.find_payment(session, MIDDLE), 1)},
    "notifications": {
        "endpoints": (lambda session: webhook_endpoints.list_endpoints(session, client_id="ours"), ENDPOINTS_OF_ALL),
        "an endpoint": (
            lambda session: webhook_endpoints.find_endpoint(session, UUID(int=5), client_id="ours"),
            ENDPOINTS_OF_ALL,
        ),
        "deliveries": (deliveries(), PAGE + 1),
        "older deliveries": (deliveries(cursor=MIDDLE), PAGE + 1),
        "deliveries of an endpoint": (deliveries(endpoint_id=UUID(int=5)), OURS + OTHERS),
        "dead deliveries": (deliveries(status=DeliveryStatus.DEAD.value), PAGE + 1),
        "delivered deliveries": (deliveries(status=DeliveryStatus.DELIVERED.value), PAGE + 1),
        "deliveries of a status that no delivery has": (deliveries(status=DeliveryStatus.DISABLED.value), PAGE + 1),
        "dead deliveries of an endpoint": (deliveries(endpoint_id=UUID(int=5), status="dead"), (OURS + OTHERS) // 20),
        "a delivery": (lambda session: webhook_deliveries.find_delivery(session, DELIVERY, client_id="ours"), 1),
        "an order's mails": (lambda session: list_mails(session, order_id=MIDDLE, client_id="ours"), 1),
    },
}
"""What is looked for, and how many rows that may take."""


async def rows_read(session: Session) -> int:
    """By the session's connection until now, from any table."""
    query = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"
    return int(await session.scalar(text(query)) or 0)


@asynccontextmanager
async def owning(settings: DatabaseSettings) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the role whose the tables are, who alone may have them analysed."""
    connection = await connect(settings.as_owner(), application_name="owner")
    try:
        yield connection
    finally:
        await connection.close()


async def leave_unanalysed(owner: asyncpg.Connection) -> None:
    for table in await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        await owner.execute(f"ALTER TABLE {table['tablename']} SET (autovacuum_enabled = off)")


async def fill(owner: asyncpg.Connection, package: str, first: int, last: int) -> None:
    for statement, values in fillings(package, first, last):
        await owner.execute(statement, *values)


async def costs(database: Database, look: Look) -> int:
    async with database.transaction() as session:
        before = await rows_read(session)
        await look(session)
        return await rows_read(session) - before


async def too_dear(database: Database, package: str) -> dict[str, str]:
    """What costs more rows than it may."""
    found = {}
    for what, (look, most) in CHEAP[package].items():
        if (read := max([await costs(database, look) for _ in range(REPEATS)])) > most:
            found[what] = f"{read} rows, and at most {most}"
    return found


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("package", CHEAP)
async def test_a_look_reads_the_rows_that_it_returns(fresh_database: FreshDatabase, package: str, known: Known) -> None:
    settings = (await fresh_database(package)).model_copy(update={"pool_size": 1, "max_overflow": 0})
    database = Database(settings, pool="rows", application_name="rows")
    async with owning(settings) as owner:
        await leave_unanalysed(owner)
        if known == "that they were empty":
            await owner.execute("ANALYZE")
        await fill(owner, package, 1, FEW)
        if known == "nothing":
            assert await too_dear(database, package) == {}
    async with owning(settings) as owner:  # a new one: its plans for foreign keys are from before the rows, too
        await fill(owner, package, FEW + 1, OURS + OTHERS)
        if known == "all":
            await owner.execute("ANALYZE")
        assert await too_dear(database, package) == {}
    await database.close()
