"""The provider's books in SQLite: transfers, answers by idempotency key, events.

One process, one thread: each method runs to its end before another starts, and `with store.transaction():`
makes several of them one.
"""

import json
import sqlite3
from dataclasses import asdict, dataclass
from importlib.resources import files

from simulators import faults
from simulators.answers import Page

SCHEMA = faults.SCHEMA + files("simulators.payment_provider").joinpath("schema.sql").read_text()


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A charge or a refund; `amount` in minor units. `outcome` is what it will come to:
    the final status, or a failure code.
    """

    id: str
    object: str
    reference: str
    idempotency_key: str
    amount: int
    currency: str
    status: str
    object_version: int
    outcome: str
    created_at: str
    failure_code: str | None = None
    charge_id: str | None = None
    charge_reference: str | None = None
    settles_at: float | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a POST was answered, word for word."""

    fingerprint: str
    status: int
    body: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """`body` is signed and sent as it is, the same in every attempt; `traceparent` goes along as a header."""

    id: str
    type: str
    reference: str
    body: str
    attempts: int = 0
    next_attempt_at: float | None
    traceparent: str | None = None


class Store:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def transaction(self) -> sqlite3.Connection:
        """A context that commits at its end, or rolls back on an exception."""
        return self._database

    # Idempotency keys

    def count_post(self, key: str) -> None:
        self._database.execute(
            "INSERT INTO idempotency (key, requests) VALUES (?, 1) ON CONFLICT DO UPDATE SET requests = requests + 1",
            (key,),
        )

    def answer(self, key: str) -> Answer | None:
        row = self._database.execute(
            "SELECT fingerprint, status, body FROM idempotency WHERE key = ? AND status IS NOT NULL", (key,)
        ).fetchone()
        return Answer(*row) if row else None

    def keep_answer(self, key: str, answer: Answer) -> None:
        self._database.execute(
            "UPDATE idempotency SET fingerprint = ?, status = ?, body = ? WHERE key = ?",
            (answer.fingerprint, answer.status, answer.body, key),
        )

    # Transfers

    def add(self, record: Transfer | Event) -> None:
        values = asdict(record)
        table = "event" if isinstance(record, Event) else "transfer"
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        self._database.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", values)  # noqa: S608  our own names

    def transfer(self, kind: str, identifier: str) -> Transfer | None:
        return next(iter(self._transfers("object = ? AND id = ?", kind, identifier)), None)

    def transfers(self, kind: str, reference: str) -> list[Transfer]:
        return self._transfers("object = ? AND reference = ?", kind, reference)

    def due_transfers(self, now: float) -> list[Transfer]:
        """Those that settle by now, the earliest first. In any other order SQLite reads the whole table."""
        return self._transfers("settles_at <= ?", now, order="settles_at, rowid")

    def refunded(self, charge_id: str) -> int:
        """What was refunded of a charge, or is about to be, in minor units."""
        total: int = self._database.execute(
            "SELECT coalesce(sum(amount), 0) FROM transfer WHERE charge_id = ? AND status <> 'failed'", (charge_id,)
        ).fetchone()[0]
        return total

    def settle(self, transfer: Transfer) -> None:
        self._database.execute(
            "UPDATE transfer SET status = :status, failure_code = :failure_code,"
            " object_version = :object_version, settles_at = NULL WHERE id = :id",
            asdict(transfer),
        )

    def next_settlement(self) -> float | None:
        # SQLite uses the partial index only under the index's own condition.
        earliest = "SELECT min(settles_at) FROM transfer WHERE settles_at IS NOT NULL"
        at: float | None = self._database.execute(earliest).fetchone()[0]
        return at

    def _transfers(self, condition: str, *values: object, order: str = "rowid") -> list[Transfer]:
        query = f"SELECT * FROM transfer WHERE {condition} ORDER BY {order}"  # noqa: S608  our own conditions
        return [Transfer(**dict(row)) for row in self._database.execute(query, values)]

    # Events

    def waiting_events(self, limit: int) -> list[Event]:
        """Events that are to be sent, now or later, the soonest first."""
        rows = self._database.execute(
            "SELECT id, type, reference, body, attempts, next_attempt_at, traceparent FROM event"
            " WHERE next_attempt_at IS NOT NULL ORDER BY next_attempt_at LIMIT ?",
            (limit,),
        )
        return [Event(**dict(row)) for row in rows]

    def count_attempt(self, event_id: str) -> None:
        self._database.execute("UPDATE event SET attempts = attempts + 1 WHERE id = ?", (event_id,))

    def acknowledge(self, event_id: str) -> None:
        self._database.execute("UPDATE event SET acknowledged = 1, next_attempt_at = NULL WHERE id = ?", (event_id,))

    def postpone(self, event_id: str, at: float) -> None:
        self._database.execute("UPDATE event SET next_attempt_at = ? WHERE id = ?", (at, event_id))

    # All of it, for an audit

    def ledger(self) -> dict[str, list[dict[str, object]]]:
        return {kind: self.page(kind, ALL) for kind in LEDGER}

    def page(self, kind: str, page: Page) -> list[dict[str, object]]:
        """Some charges, refunds or events, in the order in which they were written; `seq` is their number."""
        return self._ledger_rows(kind, "seq > :after", asdict(page))

    def about(self, references: list[str]) -> dict[str, list[dict[str, object]]]:
        """What bears these references, and the refunds of charges that do."""
        asked = {"asked": json.dumps(references), "limit": -1}
        is_asked = "reference IN (SELECT value FROM json_each(:asked))"
        return {
            "charges": self._ledger_rows("charges", is_asked, asked),
            "refunds": self._ledger_rows("refunds", f"{is_asked} OR charge_{is_asked}", asked),
            "events": self._ledger_rows("events", is_asked, asked),
        }

    def totals(self) -> dict[str, int]:
        return {kind: int(self._database.execute(COUNTS[kind]).fetchone()[0]) for kind in LEDGER}

    def _ledger_rows(self, kind: str, condition: str, values: dict[str, object]) -> list[dict[str, object]]:
        query = f"SELECT * FROM ({LEDGER[kind]}) WHERE {condition} ORDER BY seq LIMIT :limit"  # noqa: S608  our own
        rows = [dict(row) for row in self._database.execute(query, values)]
        return [row | {"acknowledged": bool(row["acknowledged"])} for row in rows] if kind == "events" else rows


_TRANSFER = (
    "t.rowid AS seq, id, reference, idempotency_key, t.status, amount, currency, created_at, requests, failure_code"
)
_POSTED = "transfer t JOIN idempotency i ON i.key = t.idempotency_key"
LEDGER = {
    "charges": f"SELECT {_TRANSFER} FROM {_POSTED} WHERE object = 'charge'",  # noqa: S608  our own columns
    "refunds": f"SELECT {_TRANSFER}, charge_id, charge_reference FROM {_POSTED} WHERE object = 'refund'",  # noqa: S608
    "events": "SELECT rowid AS seq, id AS event_id, type, reference, attempts, acknowledged FROM event",
}
COUNTS = {
    "charges": "SELECT count(*) FROM transfer WHERE object = 'charge'",
    "refunds": "SELECT count(*) FROM transfer WHERE object = 'refund'",
    "events": "SELECT count(*) FROM event",
}
ALL = Page()
