"""A measurement of the backlog reads the rows that it counts, although its plan was made while the tables were empty.

Autovacuum analyses a table within a minute of its first rows, and then the server makes the plan anew.
"""

import pytest
from backends import FreshDatabase
from chassis.pooling import Database
from chassis.pooling.statements import DriverStatement
from orders.api import BACKLOG as ORDERS
from payments.api import BACKLOG as PAYMENTS
from test_rows_read import REPEATS, leave_unanalysed, owning, rows_read

DONE_LONG_AGO, DONE, WAITING = 5_000, 7, 20
FILL = {
    "orders": "INSERT INTO orders (client_id, idempotency_key, customer_email, amount, currency, payment_method, "
    "status, updated_at) "
    "SELECT 'ours', n::text, 'a@b.example', 1, 'EUR', 'card', $1, now() - make_interval(secs => $2::int) "
    "FROM generate_series(1, $3::int) AS n",
    "payments": "INSERT INTO payment (id, order_id, amount, currency, payment_method, status, updated_at) "
    "SELECT uuidv7(), uuidv7(), 1, 'EUR', 'card', $1, now() - make_interval(secs => $2::int) "
    "FROM generate_series(1, $3::int)",
}
STATUSES = {"orders": ("confirmed", "pending"), "payments": ("captured", "created")}
STATEMENTS: dict[str, DriverStatement] = {"orders": ORDERS, "payments": PAYMENTS}


@pytest.mark.parametrize("is_analysed", [False, True])
@pytest.mark.parametrize("service", STATEMENTS)
async def test_a_measurement_reads_what_it_counts(
    fresh_database: FreshDatabase, service: str, *, is_analysed: bool
) -> None:
    settings = (await fresh_database(service)).model_copy(update={"pool_size": 1, "max_overflow": 0})
    database = Database(settings, pool="rows", application_name="rows")
    done, waiting = STATUSES[service]
    async with owning(settings) as owner:
        await leave_unanalysed(owner)
        await measured(database, STATEMENTS[service])
        await owner.execute(FILL[service], done, 3600, DONE_LONG_AGO)
        await owner.execute(FILL[service], done, 5, DONE)
        await owner.execute(FILL[service], waiting, 5, WAITING)
        if is_analysed:
            await owner.execute("ANALYZE")
    reads = [await measured(database, STATEMENTS[service]) for _ in range(REPEATS)]
    assert max(reads) <= DONE + WAITING
    await database.close()


async def measured(database: Database, statement: DriverStatement) -> int:
    """The rows that one measurement reads from any table."""
    async with database.transaction() as session:
        before = await rows_read(session)
        for _ in range(REPEATS):
            (row,) = await session.fetch(statement, window=30.0, excluded_age=300.0, limit=10_000)
        assert (row["waiting"], row["done"]) in {(0, 0), (WAITING, DONE)}
        return (await rows_read(session) - before) // REPEATS
