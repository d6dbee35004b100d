"""Mail as it was received: parsing, and the table that keeps every copy."""

import json
import sqlite3
from dataclasses import asdict, dataclass
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import Header, decode_header, make_header
from email.message import Message as MailMessage

from simulators import faults
from simulators.answers import Page

_LOCAL_PART = "ltrim(substr(message_id, 1, instr(message_id, '@') - 1), '<')"
"""Of a Message-ID: the same words as in its index, or SQLite does not use that."""
_WITH_LOCAL_PARTS = f"""
    SELECT id, message_id, recipients, subject, text, received_at FROM message
    WHERE {_LOCAL_PART} IN (SELECT value FROM json_each(?)) ORDER BY id
"""  # noqa: S608  our own expression
ALL = Page()

SCHEMA = (
    faults.SCHEMA
    + f"""
-- One row per accepted DATA: a message that was sent twice is here twice. AUTOINCREMENT: ids never come back.
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL,
    sender TEXT NOT NULL,
    recipients TEXT NOT NULL,
    subject TEXT NOT NULL,
    text TEXT NOT NULL,
    headers TEXT NOT NULL,
    received_at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS message_by_message_id ON message (message_id);
CREATE INDEX IF NOT EXISTS message_by_local_part ON message ({_LOCAL_PART});
"""
)


@dataclass(frozen=True, kw_only=True)
class Message:
    """`sender` and `recipients` are the envelope's; `message_id` is the header with its angle brackets."""

    id: int | None = None
    message_id: str
    sender: str
    recipients: list[str]
    subject: str
    text: str
    headers: dict[str, str]
    received_at: str

    def shown(self) -> dict[str, object]:
        fields = asdict(self)
        return {"id": fields.pop("id"), "from": fields.pop("sender"), "to": fields.pop("recipients"), **fields}


def parse(content: bytes, *, sender: str, recipients: list[str], received_at: str) -> Message:
    """Never fails: whatever the mail's syntax, it was received and counts.

    Hence the old parser policy: the modern one parses addresses and parameters, and raises on some.
    """
    mail = message_from_bytes(content)
    headers: dict[str, str] = {}
    for name, value in mail.items():
        headers[name] = ", ".join(filter(None, (headers.get(name), decoded(value))))
    return Message(
        message_id=decoded(mail.get("Message-ID", "")),
        sender=clean(sender),
        recipients=[clean(recipient) for recipient in recipients],
        subject=decoded(mail.get("Subject", "")),
        text=body_text(mail),
        headers=headers,
        received_at=received_at,
    )


def decoded(header: str | Header) -> str:
    """The header on one line with its encoded words decoded, or as it came when they cannot be."""
    line = " ".join(str(header).split())
    try:
        return clean(str(make_header(decode_header(line))))
    except (HeaderParseError, LookupError, ValueError):
        return clean(line)


def body_text(mail: MailMessage) -> str:
    """The first plain part, or else the source of the first HTML part."""
    parts = {part.get_content_type(): part for part in reversed([*mail.walk()])}
    part = parts.get("text/plain", parts.get("text/html"))
    payload = part.get_payload(decode=True) if part else None
    if part is None or not isinstance(payload, bytes):
        return ""
    try:
        return clean(payload.decode(part.get_content_charset("utf-8"), errors="replace"))
    except (LookupError, ValueError):  # a charset that nobody knows
        return payload.decode("latin-1")


def clean(text: str) -> str:
    """Bytes that were no valid text became lone surrogates, which neither SQLite nor JSON can carry."""
    return text.encode(errors="replace").decode()


class Mailbox:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add(self, message: Message) -> int | None:
        values = asdict(message) | {
            "recipients": json.dumps(message.recipients),
            "headers": json.dumps(message.headers),
        }
        with self._database:
            return self._database.execute(
                "INSERT INTO message (message_id, sender, recipients, subject, text, headers, received_at)"
                " VALUES (:message_id, :sender, :recipients, :subject, :text, :headers, :received_at)",
                values,
            ).lastrowid

    def messages(
        self, *, to: str | None = None, message_id: str | None = None, newest: int | None = None, page: Page = ALL
    ) -> list[Message]:
        """In the order of arrival; with `newest`, only that many, the newest first."""
        rows = self._database.execute(
            "SELECT * FROM message WHERE (:message_id IS NULL OR trim(message_id, '<>') = trim(:message_id, '<>'))"
            " AND (:to IS NULL OR :to IN (SELECT value FROM json_each(recipients))) AND id > :after"
            " ORDER BY id * :direction LIMIT :limit",
            {
                "to": to,
                "message_id": message_id,
                "direction": -1 if newest else 1,
                "limit": newest or page.limit,
                "after": page.after,
            },
        )
        return [
            Message(**dict(row) | {name: json.loads(row[name]) for name in ("recipients", "headers")}) for row in rows
        ]

    def with_local_parts(self, local_parts: list[str]) -> list[dict[str, object]]:
        """The copies whose Message-ID is `<local part@any domain>`, without headers, in the order of arrival."""
        rows = self._database.execute(_WITH_LOCAL_PARTS, (json.dumps(local_parts),))
        return [dict(row) | {"to": json.loads(row["recipients"])} for row in rows]

    def count(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM message").fetchone()[0]
        return count

    def copies(self, message_id: str) -> int:
        count: int = self._database.execute(
            "SELECT count(*) FROM message WHERE message_id = ?", (message_id,)
        ).fetchone()[0]
        return count

    def clear(self) -> int:
        """Delete all; returns how many there were."""
        with self._database:
            return self._database.execute("DELETE FROM message").rowcount
