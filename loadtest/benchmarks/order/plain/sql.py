"""The plain saga's storage tuned by simple means: SQL as it is sent, on asyncpg's own pool.

The tables are those of `orm.py`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partialmethod
from typing import Any
from uuid import UUID

import asyncpg


class _InTurn:
    """A connection that several tasks may use: their statements run one after the other."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def _run(self, method: str, *args: Any) -> Any:
        async with self._turn:
            return await getattr(self._connection, method)(*args)

    execute = partialmethod(_run, "execute")
    fetch = partialmethod(_run, "fetch")
    fetchrow = partialmethod(_run, "fetchrow")
    fetchval = partialmethod(_run, "fetchval")


class Transaction:
    """What the steps read and write, in one transaction. The methods are those of `orm.py`."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = _InTurn(connection)

    async def add_task(self, kind: str, payload: dict[str, Any]) -> None:
        await self._connection.execute("INSERT INTO task (kind, payload) VALUES ($1, $2)", kind, json.dumps(payload))

    async def take_tasks(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        """The oldest tasks that no other worker holds, deleted if this transaction commits."""
        rows = await self._connection.fetch(
            "DELETE FROM task WHERE id = ANY (ARRAY(SELECT id FROM task ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))"
            " RETURNING kind, payload",
            count,
        )
        return [(row["kind"], json.loads(row["payload"])) for row in rows]

    async def products(self, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        rows = await self._connection.fetch("SELECT id, price, currency FROM product WHERE id = ANY ($1)", ids)
        return {row["id"]: (row["price"], row["currency"]) for row in rows}

    async def add_order(self, values: dict[str, Any], lines: Sequence[dict[str, Any]]) -> tuple[UUID, datetime]:
        row = await self._connection.fetchrow(
            "WITH placed AS ("
            " INSERT INTO orders (customer_email, payment_method, status, amount, currency)"
            " VALUES ($1, $2, 'pending', $3, $4) RETURNING id, created_at"
            "), lines AS ("
            " INSERT INTO order_line (order_id, position, product_id, quantity, unit_price)"
            " SELECT placed.id, line.position, line.product_id, line.quantity, line.unit_price FROM placed,"
            " unnest($5::text[], $6::bigint[], $7::bigint[])"
            " WITH ORDINALITY AS line (product_id, quantity, unit_price, position)"
            ") SELECT id, created_at FROM placed",
            *(values[name] for name in ("customer_email", "payment_method", "amount", "currency")),
            *([line[name] for line in lines] for name in ("product_id", "quantity", "unit_price")),
        )
        assert row is not None
        return row["id"], row["created_at"]

    async def order(self, order_id: UUID) -> dict[str, Any]:
        return await self._one("SELECT * FROM orders WHERE id = $1", order_id)

    async def confirm_order(self, order_id: UUID) -> dict[str, Any]:
        return await self._one("UPDATE orders SET status = 'confirmed' WHERE id = $1 RETURNING *", order_id)

    async def add_payment(self, values: dict[str, Any]) -> bool:
        """Whether it is new: a worker that was killed asks again."""
        order_id = await self._connection.fetchval(
            "INSERT INTO payment (order_id, amount, currency, payment_method, status)"
            " VALUES ($1, $2, $3, $4, 'created') ON CONFLICT DO NOTHING RETURNING order_id",
            *(values[name] for name in ("order_id", "amount", "currency", "payment_method")),
        )
        return order_id is not None

    async def payment(self, order_id: UUID) -> dict[str, Any]:
        return await self._one("SELECT * FROM payment WHERE order_id = $1", order_id)

    async def submit_payment(self, order_id: UUID, charge_id: str) -> None:
        await self._connection.execute("UPDATE payment SET charge_id = $2 WHERE order_id = $1", order_id, charge_id)

    async def capture_payment(self, order_id: UUID) -> None:
        await self._connection.execute("UPDATE payment SET status = 'captured' WHERE order_id = $1", order_id)

    async def add_provider_event(self, event_id: str, body: bytes) -> None:
        await self._connection.execute(
            "INSERT INTO provider_event (id, body) VALUES ($1, $2) ON CONFLICT DO NOTHING", event_id, body
        )

    async def provider_event(self, event_id: str) -> bytes:
        body: bytes = await self._connection.fetchval("SELECT body FROM provider_event WHERE id = $1", event_id)
        return body

    async def add_mail(self, values: dict[str, Any]) -> UUID:
        mail_id: UUID = await self._connection.fetchval(
            "INSERT INTO mail (order_id, recipient, subject, text, status) VALUES ($1, $2, $3, $4, 'pending')"
            " RETURNING id",
            *(values[name] for name in ("order_id", "recipient", "subject", "text")),
        )
        return mail_id

    async def mail(self, mail_id: UUID) -> dict[str, Any]:
        return await self._one("SELECT * FROM mail WHERE id = $1", mail_id)

    async def settle_mail(self, mail_id: UUID) -> None:
        await self._connection.execute("UPDATE mail SET status = 'sent' WHERE id = $1", mail_id)

    async def _one(self, query: str, identifier: UUID) -> dict[str, Any]:
        row = await self._connection.fetchrow(query, identifier)
        assert row is not None
        return dict(row)


class Store:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._pool.acquire() as connection, connection.transaction():
            yield Transaction(connection)


@asynccontextmanager
async def open_store(dsn: str, *, connections: int) -> AsyncIterator[Store]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=connections, reset=_keep) as pool:
        yield Store(pool)


async def _keep(_connection: asyncpg.Connection) -> None:
    """In place of asyncpg's four statements whenever a connection returns to the pool: nothing here changes one."""
