"""What was sent to the endpoint: the table that keeps every attempt, valid or not."""

import json
import sqlite3
from dataclasses import asdict, dataclass

from simulators import faults
from simulators.answers import Page

SCHEMA = (
    faults.SCHEMA
    + """
-- One row per request, written before it is answered: status is NULL until then, and stays so when no answer was
-- given. reason says why it was not verified. AUTOINCREMENT: ids never come back.
CREATE TABLE IF NOT EXISTS attempt (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    received_at TEXT NOT NULL,
    name TEXT NOT NULL,
    webhook_id TEXT,
    webhook_timestamp TEXT,
    reason TEXT,
    fault TEXT,
    status INTEGER,
    headers TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS attempt_by_webhook_id ON attempt (webhook_id);
CREATE INDEX IF NOT EXISTS attempt_verified ON attempt (id) WHERE reason IS NULL;
"""
)


ALL = Page()


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """`fault` is the switch that decides the answer, None when the verification does; `headers` in lower case."""

    id: int | None = None
    received_at: str
    name: str
    webhook_id: str | None
    webhook_timestamp: str | None
    reason: str | None
    fault: str | None
    status: int | None = None
    headers: dict[str, str]
    body: str

    @property
    def is_verified(self) -> bool:
        return self.reason is None

    def shown(self) -> dict[str, object]:
        return asdict(self) | {"verified": self.is_verified}


class Attempts:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add(self, attempt: Attempt) -> int | None:
        values = asdict(attempt) | {"headers": json.dumps(attempt.headers)}
        with self._database:
            return self._database.execute(
                "INSERT INTO attempt (received_at, name, webhook_id, webhook_timestamp, reason, fault, headers, body)"
                " VALUES (:received_at, :name, :webhook_id, :webhook_timestamp, :reason, :fault, :headers, :body)",
                values,
            ).lastrowid

    def answer(self, identifier: int | None, status: int) -> None:
        with self._database:
            self._database.execute("UPDATE attempt SET status = ? WHERE id = ?", (status, identifier))

    def attempts(self, *, name: str | None = None, webhook_id: str | None = None, page: Page = ALL) -> list[Attempt]:
        """In the order of arrival."""
        rows = self._database.execute(
            "SELECT * FROM attempt WHERE id > :after AND (:name IS NULL OR name = :name)"
            " AND (:webhook_id IS NULL OR webhook_id = :webhook_id) ORDER BY id LIMIT :limit",
            {"name": name, "webhook_id": webhook_id, **asdict(page)},
        )
        return [Attempt(**dict(row) | {"headers": json.loads(row["headers"])}) for row in rows]

    def verified(self, webhook_ids: list[str]) -> list[dict[str, object]]:
        """The verified attempts at these webhooks, without headers, in the order of arrival."""
        rows = self._database.execute(
            "SELECT id, received_at, webhook_id, status, body FROM attempt"
            " WHERE webhook_id IN (SELECT value FROM json_each(?)) AND reason IS NULL ORDER BY id",
            (json.dumps(webhook_ids),),
        )
        return [dict(row) for row in rows]

    def count_verified(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM attempt WHERE reason IS NULL").fetchone()[0]
        return count

    def count(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM attempt").fetchone()[0]
        return count

    def clear(self) -> int:
        """Delete all; returns how many there were."""
        with self._database:
            return self._database.execute("DELETE FROM attempt").rowcount
