"""Hands mails to an SMTP server.

A mail counts as sent when the server accepts it (250). A permanent refusal (5xx) of the recipient or of the mail is
final. After any other error the caller must send the mail again.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import Header
from email.headerregistry import Address
from email.utils import format_datetime, localtime

import aiosmtplib
from chassis.errors import DependencyFailed, DependencyTimeout, DependencyUnavailable, HoldfastError
from chassis.pooling import check_nothing_held
from chassis.telemetry import SpanKind, span

from notifications.settings import SmtpSettings

MAX_AGE_SECONDS = 30.0
"""Seconds after which a new connection sends no further mail. Mail servers close idle connections only after minutes.
With a short age, mails soon go to another server when a server goes out of service."""
_PERMANENT = range(500, 600)
_MAX_LINE = 900  # the longest line that is not encoded; SMTP allows 998 characters


class MailRefused(HoldfastError):
    """The mail server refuses this mail permanently. The text of the exception is the server's answer."""


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    """A connection to the mail server. No mail is sent on this connection after `closes_at`, a time of the event
    loop.
    """

    client: aiosmtplib.SMTP
    closes_at: float


class Mailer:
    """Sends mails over connections that it reuses. The composition root closes the mailer after draining.

    A connection is reused after the server has accepted a mail, until the connection is `max_age` seconds old. If the
    server has not accepted a mail, the connection is closed, because its state is unknown.
    """

    def __init__(self, settings: SmtpSettings, *, max_age: float = MAX_AGE_SECONDS) -> None:
        self._settings = settings
        self._domain = settings.sender.rpartition("@")[2]
        self._max_age = max_age
        self._idle: list[_Connection] = []

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().client.close()

    async def send(self, *, message_id: str, recipient: str, subject: str, text: str) -> None:
        """Send one mail with the Message-ID `<message_id@domain>`. The caller uses the same id in all attempts, so that
        a mailbox can recognise copies.

        Raises `MailRefused` if the server refuses the mail permanently. Raises a `DependencyError` after any other
        failure: the caller must then send the mail again.
        """
        check_nothing_held("mail server")
        _check_address(recipient)
        message = _message(
            sender=self._settings.sender,
            recipient=recipient,
            subject=subject,
            message_id=f"<{message_id}@{self._domain}>",
            text=text,
        )
        try:
            with span("send mail", kind=SpanKind.CLIENT, attributes=self._attributes):
                await self._send(recipient, message)
        except (aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError) as error:
            if error.code in _PERMANENT:
                raise MailRefused(error.message) from error
            raise DependencyUnavailable("mail server", error.message) from error
        except aiosmtplib.SMTPResponseException as error:
            # The server refuses our login or our sender address, not this mail. The mail is sent again later, because
            # an operator may repair the cause.
            raise DependencyUnavailable("mail server", error.message) from error
        except aiosmtplib.SMTPTimeoutError as error:
            raise DependencyTimeout("mail server", self._settings.timeout) from error
        except aiosmtplib.SMTPConnectError as error:
            raise DependencyUnavailable("mail server", type(error).__name__) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise DependencyFailed("mail server", type(error).__name__) from error

    async def _send(self, recipient: str, message: bytes) -> None:
        connection = await self._begin()
        async with _closed_on_error(connection.client):
            await connection.client.rcpt(recipient)
            await connection.client.data(message)
        if asyncio.get_running_loop().time() < connection.closes_at:
            self._idle.append(connection)
        else:
            connection.client.close()

    async def _begin(self) -> _Connection:
        """A connection on which the server has accepted our sender address.

        If the server has closed an idle connection, the server has received nothing of the mail, so this method opens
        another connection. After a later failure the server may have the mail, so only the caller may send the mail
        again.
        """
        while self._idle:
            connection = self._idle.pop()
            with suppress(aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPSenderRefused):
                async with _closed_on_error(connection.client):
                    await connection.client.mail(self._settings.sender)
                return connection
        client = aiosmtplib.SMTP(hostname=self._settings.host, port=self._settings.port, timeout=self._settings.timeout)
        async with _closed_on_error(client):
            await client.connect()
            await client.mail(self._settings.sender)
        loop = asyncio.get_running_loop()
        connection = _Connection(client, closes_at=loop.time() + self._max_age)
        loop.call_at(connection.closes_at, self._close_if_idle, connection)
        return connection

    def _close_if_idle(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            connection.client.close()

    def _attributes(self) -> dict[str, str | int]:
        return {"server.address": self._settings.host, "server.port": self._settings.port}


@asynccontextmanager
async def _closed_on_error(client: aiosmtplib.SMTP) -> AsyncIterator[None]:
    """Close the connection when the block raises or is cancelled."""
    try:
        yield
    except BaseException:
        client.close()
        raise


def _message(*, sender: str, recipient: str, subject: str, message_id: str, text: str) -> bytes:
    """The mail as SMTP sends it. This function does not use Python's `EmailMessage`, which parses each header that it
    writes and takes a millisecond.

    The sender and the recipient are plain addresses, and the Message-ID is ours. A subject or a text with other
    characters than printable ASCII is encoded, so neither can add a header or end the mail.
    """
    lines = text.split("\n")
    if is_plain := all(_is_plain(line) for line in lines):
        body = "\r\n".join(lines).encode("ascii")
    else:
        body = base64.encodebytes(text.encode()).replace(b"\n", b"\r\n")
    headers = (
        f"From: {sender}",
        f"To: {recipient}",
        f"Subject: {subject if _is_plain(subject) else Header(subject, 'utf-8').encode(linesep='\r\n')}",
        f"Message-ID: {message_id}",
        f"Date: {format_datetime(localtime())}",
        "MIME-Version: 1.0",
        'Content-Type: text/plain; charset="utf-8"',
        f"Content-Transfer-Encoding: {'7bit' if is_plain else 'base64'}",
    )
    return "\r\n".join(headers).encode("ascii") + b"\r\n\r\n" + body


def _is_plain(line: str) -> bool:
    return line.isascii() and line.isprintable() and len(line) <= _MAX_LINE


def _check_address(recipient: str) -> None:
    """Raise `MailRefused` for a text that is not exactly one plain address, because no mail server could deliver the
    mail.
    """
    try:
        address = Address(addr_spec=recipient)
    except (HeaderParseError, ValueError, IndexError) as error:
        raise MailRefused(f"the recipient is not one address: {error}") from error
    if not recipient.isascii() or not recipient.isprintable() or address.addr_spec != recipient:
        raise MailRefused("the recipient is not one plain address")
