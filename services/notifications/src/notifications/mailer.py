"""Hands mails to an SMTP server.

A mail counts as sent when the server accepts it (250). A permanent refusal (5xx) of the recipient or of the mail is
final. After any other error the caller must send the mail again.
"""

from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, localtime

import aiosmtplib
from chassis.errors import DependencyFailed, DependencyTimeout, DependencyUnavailable, HoldfastError
from chassis.pooling import check_nothing_held
from chassis.telemetry import SpanKind, span

from notifications.settings import SmtpSettings

_PERMANENT = range(500, 600)


class MailRefused(HoldfastError):
    """The mail server refuses this mail permanently. The text of the exception is the server's answer."""


class Mailer:
    """Opens one connection per mail. Mails are rare, so reuse of connections would save little, and an idle connection
    may break unnoticed.
    """

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings
        self._domain = settings.sender.rpartition("@")[2]

    async def send(self, *, message_id: str, recipient: str, subject: str, text: str) -> None:
        """Send one mail with the Message-ID `<message_id@domain>`. The caller uses the same id in all attempts, so that
        a mailbox can recognise copies.

        Raises `MailRefused` if the server refuses the mail permanently. Raises a `DependencyError` after any other
        failure: the caller must then send the mail again.
        """
        check_nothing_held("mail server")
        message = EmailMessage()
        message["From"] = self._settings.sender
        message["To"] = _address(recipient)
        message["Subject"] = subject
        message["Message-ID"] = f"<{message_id}@{self._domain}>"
        message["Date"] = format_datetime(localtime())
        message.set_content(text)
        try:
            with span("send mail", kind=SpanKind.CLIENT, attributes=self._attributes):
                await aiosmtplib.send(
                    message,
                    recipients=[recipient],
                    hostname=self._settings.host,
                    port=self._settings.port,
                    timeout=self._settings.timeout,
                )
        except aiosmtplib.SMTPRecipientsRefused as error:
            _raise_if_permanent([refusal.code for refusal in error.recipients], str(error), error)
        except aiosmtplib.SMTPDataError as error:
            _raise_if_permanent([error.code], error.message, error)
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

    def _attributes(self) -> dict[str, str | int]:
        return {"server.address": self._settings.host, "server.port": self._settings.port}


def _address(recipient: str) -> Address:
    """The recipient's address. Raises `MailRefused` for a text that is not exactly one address, because no mail server
    could deliver the mail.
    """
    try:
        address = Address(addr_spec=recipient)
    except (HeaderParseError, ValueError, IndexError) as error:
        raise MailRefused(f"the recipient is not one address: {error}") from error
    if not recipient.isascii() or not recipient.isprintable() or address.addr_spec != recipient:
        raise MailRefused("the recipient is not one plain address")
    return address


def _raise_if_permanent(codes: list[int], answer: str, error: Exception) -> None:
    if codes and all(code in _PERMANENT for code in codes):
        raise MailRefused(answer) from error
    raise DependencyUnavailable("mail server", answer) from error
