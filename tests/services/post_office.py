"""A real mail server that answers as a test wants."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message

from aiosmtpd.smtp import SMTP, Envelope, Session
from notifications.settings import SmtpSettings


@dataclass(slots=True)
class PostOffice:
    """A mail server: says what the test wants it to say, and keeps what it accepted."""

    settings: SmtpSettings = field(default_factory=SmtpSettings)
    sender_answers: list[str] = field(default_factory=list)
    recipient_answers: list[str] = field(default_factory=list)
    data_answers: list[str] = field(default_factory=list)
    drops_after_data: bool = False
    hangs: bool = False
    mails: list[tuple[list[str], Message]] = field(default_factory=list)
    connections: list[SMTP] = field(default_factory=list)

    def connection(self) -> SMTP:
        """The protocol of the next connection."""
        self.connections.append(SMTP(self, hostname="post.local", ident="post", enable_SMTPUTF8=True))
        return self.connections[-1]

    @property
    def open_connections(self) -> int:
        return sum(one.transport is not None and not one.transport.is_closing() for one in self.connections)

    async def handle_MAIL(  # noqa: N802  aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = self.sender_answers.pop(0) if self.sender_answers else "250 OK"
        if answer.startswith("250"):
            envelope.mail_from = address
        return answer

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = self.recipient_answers.pop(0) if self.recipient_answers else "250 OK"
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        answer = self.data_answers.pop(0) if self.data_answers else "250 OK"
        if not answer.startswith("250"):
            return answer
        self.mails.append((list(envelope.rcpt_tos), message_from_bytes(envelope.original_content or b"")))
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.drops_after_data:
            assert server.transport is not None
            server.transport.close()
            await asyncio.get_running_loop().create_future()
        return answer

    @property
    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for _, mail in self.mails]


@asynccontextmanager
async def post_office() -> AsyncIterator[PostOffice]:
    office = PostOffice()
    server = await asyncio.get_running_loop().create_server(office.connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    office.settings = SmtpSettings(host="127.0.0.1", port=port, timeout=2.0)
    yield office
    server.close()
    for connection in office.connections:
        if connection.transport is not None:
            connection.transport.close()
