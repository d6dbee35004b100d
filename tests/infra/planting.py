"""A healthy platform at rest, in which a test plants what is wrong: four real databases and the real simulators."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import healthy_state

CONFIRMED, DECLINED, LATE, REFUNDED, CANCELLED = "confirmed", "declined", "late", "refunded", "cancelled"
"""The keys of the recorded orders; of each, what became of it."""


@dataclass(kw_only=True)
class Planted:
    """`files` are the simulators' databases, `answers` what clients were answered."""

    connections: Mapping[str, asyncpg.Connection]
    files: Mapping[str, Path]
    history: Path
    urls: Mapping[str, str]
    answers: list[dict[str, Any]] = field(default_factory=list)

    async def restore(self) -> None:
        """As it was recorded, whatever was planted before."""
        recording = healthy_state.load(self.urls["customer-endpoint"])
        for service, tables in recording["databases"].items():
            await healthy_state.restore_database(self.connections[service], service, tables)
        for name, tables in recording["simulators"].items():
            with closing(sqlite3.connect(self.files[name])) as database:
                healthy_state.restore_simulator(database, tables)
        self.answers = recording["answers"]
        self.write_history()

    def write_history(self, *interruptions: Mapping[str, str]) -> None:
        self.history.write_text("".join(json.dumps(line) + "\n" for line in (*self.answers, *interruptions)))

    async def clear(self) -> None:
        """Everything is gone."""
        for service, tables in healthy_state.TABLES.items():
            await healthy_state.restore_database(
                self.connections[service], service, {table: [] for table in (*tables, *healthy_state.MECHANICS)}
            )
        for name, tables in healthy_state.SIMULATORS.items():
            with closing(sqlite3.connect(self.files[name])) as database:
                healthy_state.restore_simulator(database, {table: [] for table in tables})

    async def execute(self, service: str, statement: str, *values: object) -> None:
        """A statement that has to change something."""
        done = await self.connections[service].execute(statement, *values)
        assert not done.endswith(" 0"), statement

    async def value(self, service: str, query: str, *values: object) -> Any:
        found = await self.connections[service].fetchval(query, *values)
        assert found is not None, query
        return found

    def outside(self, simulator: str, statement: str, *values: object) -> Any:
        """The same in a simulator's file; the first column of the first row, if the statement returns one."""
        with closing(sqlite3.connect(self.files[simulator])) as database, database:
            cursor = database.execute(statement, values)
            row = cursor.fetchone()
            assert row is not None or cursor.rowcount > 0, statement
            return row[0] if row else None

    async def order(self, key: str) -> str:
        return str(await self.value("orders", "SELECT id FROM orders WHERE idempotency_key = $1", key))

    async def payment(self, key: str) -> str:
        return str(await self.value("orders", "SELECT payment_id FROM orders WHERE idempotency_key = $1", key))

    async def event(self, key: str, version: int) -> str:
        query = "SELECT event_id FROM outbox WHERE aggregate_id = $1 AND aggregate_version = $2"
        return str(await self.value("orders", query, await self.order(key), version))

    async def delivery(self, key: str, version: int) -> str:
        query = "SELECT id FROM webhook_delivery WHERE event_id = $1"
        return str(await self.value("notifications", query, await self.event(key, version)))

    async def charge(self, key: str) -> str:
        return str(
            self.outside("payment-provider", "SELECT id FROM transfer WHERE reference = ?", await self.payment(key))
        )

    async def job(self, status: str, run_at: str = "now()") -> None:
        await self.execute(
            "orders",
            "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, status, run_at)"
            f" VALUES ('request_payment', 'default', 0, '{{}}', 1, 50, $1, {run_at})",
            status,
        )

    async def add_charge(self, key: str, status: str) -> str:
        """One more charge, POSTed in an attempt that was recorded; its id."""
        payment, charge = await self.payment(key), f"ch_{uuid4().hex}"
        amount = await self.value("payments", "SELECT amount FROM payment WHERE id = $1", payment)
        await self.execute("payments", "INSERT INTO charge_attempt (payment_id, n) VALUES ($1, 99)", payment)
        self.outside("payment-provider", "INSERT INTO idempotency (key, requests) VALUES (?, 1)", charge)
        values = {"reference": payment, "idempotency_key": charge, "amount": amount}
        self._copy_transfer("charge", id=charge, status=status, **values)
        return charge

    async def add_refund(self, key: str, charge: str, *, row: str, status: str) -> str:
        """A refund of a charge, that payments knows as `row` and the ledger as `status`; its id there."""
        payment, refund, ours = await self.payment(key), f"re_{uuid4().hex}", str(uuid4())
        amount = await self.value("payments", "SELECT amount FROM payment WHERE id = $1", payment)
        insert = "INSERT INTO refund (id, payment_id, n, amount, status) VALUES ($1, $2, 9, $3, $4)"
        await self.execute("payments", insert, ours, payment, amount, row)
        self.outside("payment-provider", "INSERT INTO idempotency (key, requests) VALUES (?, 1)", refund)
        values = {"reference": ours, "idempotency_key": refund, "amount": amount, "charge_id": charge}
        self._copy_transfer("refund", id=refund, status=status, charge_reference=payment, **values)
        return refund

    def _copy_transfer(self, kind: str, **values: object) -> None:
        with closing(sqlite3.connect(self.files["payment-provider"])) as database, database:
            database.row_factory = sqlite3.Row
            row = dict(database.execute("SELECT * FROM transfer WHERE object = ?", (kind,)).fetchone()) | values
            names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
            database.execute(f"INSERT INTO transfer ({names}) VALUES ({places})", row)

    def copy(self, event_id: str, *, seconds: float = 0.0, domain: str = "") -> str:
        """One more copy of a mail, that many seconds after the first; its Message-ID."""
        message_id = self.outside("mailbox", "SELECT message_id FROM message WHERE message_id LIKE ?", f"<{event_id}@%")
        second = f"<{event_id}@{domain}>" if domain else message_id
        self.outside(
            "mailbox",
            "INSERT INTO message (message_id, sender, recipients, subject, text, headers, received_at)"
            " SELECT ?, sender, recipients, subject, text, headers,"
            " strftime('%Y-%m-%dT%H:%M:%f+00:00', received_at, ?) FROM message WHERE message_id = ?",
            second,
            f"+{seconds} seconds",
            message_id,
        )
        return second

    def arrive(self, webhook_id: str, /, **values: object) -> None:
        """One more attempt like the first one at this webhook, but for these values."""
        with closing(sqlite3.connect(self.files["customer-endpoint"])) as database, database:
            database.row_factory = sqlite3.Row
            query = "SELECT * FROM attempt WHERE webhook_id = ?"
            row = {**dict(database.execute(query, (webhook_id,)).fetchone()), **values, "id": None}
            names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
            database.execute(f"INSERT INTO attempt ({names}) VALUES ({places})", row)
