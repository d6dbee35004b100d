"""The mailbox's SMTP side, with its faults."""

import asyncio

from aiosmtpd.smtp import SMTP, Envelope, Session

from simulators.faults import Switchboard
from simulators.mailbox.messages import Mailbox, Message, parse
from simulators.mailbox.switches import MailboxSwitches
from simulators.process import log, timestamp

MAX_MESSAGE_BYTES = 10 * 2**20


class Postman:
    """aiosmtpd calls the `handle_…` methods; what they return is sent to the client."""

    def __init__(self, mailbox: Mailbox, faults: Switchboard[MailboxSwitches]) -> None:
        self._mailbox = mailbox
        self._faults = faults

    def connection(self) -> SMTP:
        """The protocol of one connection."""
        return SMTP(
            self,
            hostname="mailbox.local",  # given, since aiosmtpd would look it up in DNS
            ident="mailbox",
            enable_SMTPUTF8=True,
            data_size_limit=MAX_MESSAGE_BYTES,
            loop=asyncio.get_running_loop(),
        )

    async def handle_exception(self, error: Exception) -> str:
        """The answer when a handler fails, which it does only before the mail is kept. aiosmtpd's own is 500, a refusal
        for good: the sender would give the mail up.
        """
        log("message_not_kept", error=repr(error), status=451)
        return "451 4.3.0 Not kept; try again later"

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._faults.draw("permanent_reject_rate"):
            log("recipient_rejected", to=address, status=550)
            return "550 5.1.1 No such mailbox here"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self._faults.on.hang:
            log("message_left_unanswered", to=envelope.rcpt_tos)
            await until_cancelled()
        if self._faults.on.latency_seconds:
            await asyncio.sleep(self._faults.on.latency_seconds)
        if self._faults.draw("reject_rate"):
            log("message_rejected", to=envelope.rcpt_tos, status=451)
            return "451 4.3.0 Try again later"
        message = received(envelope)
        dropped = self._faults.draw("drop_after_data_rate") or self._faults.on.drop_after_data
        identifier = self._mailbox.add(message)
        log("message_kept", id=identifier, message_id=message.message_id, to=message.recipients, answered=not dropped)
        if dropped:
            await drop_connection(server)
        return "250 OK"


def received(envelope: Envelope) -> Message:
    content = envelope.original_content or b""
    return parse(content, sender=envelope.mail_from or "", recipients=envelope.rcpt_tos, received_at=timestamp())


async def drop_connection(server: SMTP) -> None:
    """Close without the 250."""
    if server.transport is not None:
        server.transport.close()
    await until_cancelled()


async def until_cancelled() -> None:
    """Handlers are cancelled by aiosmtpd as soon as the connection is gone."""
    await asyncio.get_running_loop().create_future()
