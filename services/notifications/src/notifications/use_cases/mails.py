"""Mails: one per event of an order, in the order of the events' versions. All attempts to send a mail have the same
Message-ID.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from chassis.jobs import enqueue
from chassis.logging import get_logger
from chassis.pooling import Session, log_after_commit
from chassis.pooling.statements import load_driver_statements
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from notifications.messages import OrderCancelled, OrderConfirmed, OrderEvent, OrderPlaced, SendMail
from notifications.models import MAIL, Mail, MailStatus
from notifications.schemas import MailList, MailView

log = get_logger(__name__)

_SQL = load_driver_statements("notifications.sql", package="notifications")

_WORDS: Mapping[type[OrderEvent], tuple[str, str]] = {
    OrderPlaced: ("We have your order", "Thank you. We have your order over {total} and are collecting the payment."),
    OrderConfirmed: ("Your order is confirmed", "Your payment of {total} has arrived; your order is confirmed."),
    OrderCancelled: ("Your order was cancelled", "Your order over {total} was cancelled: {reason}."),
}
_REASONS = {
    "requested": "you asked for it",
    "expired": "no payment arrived in time",
    "card_declined": "the card was declined",
}
_OTHER_REASON = "the payment failed"


async def last_version(session: Session, order_id: UUID) -> int:
    """The version of the order's latest event for which a mail was written, or 0 before the first mail. Locks the row
    that stores this version.
    """
    version: int = await session.fetch_value(_SQL["last_version"], order_id=order_id)
    return version


async def write_mail(session: Session, event: OrderEvent, *, event_id: UUID, version: int) -> None:
    """Step 14 of an order (docs/reference/protocol.md): write the mail of an event and its job, and store the event's
    version as the last one of the order for which a mail was written.
    """
    subject, text = _WORDS[type(event)]
    total = f"{event.amount // 100}.{event.amount % 100:02} {event.currency}"
    reason = _REASONS.get(event.reason or "", _OTHER_REASON)
    mail_id: UUID = await session.fetch_value(
        _SQL["write_mail"],
        event_id=event_id,
        order_id=event.order_id,
        version=version,
        client_id=event.client_id,
        event_type=event.options.type,
        recipient=event.customer_email,
        subject=subject,
        text=text.format(total=total, reason=reason) + f"\n\nOrder {event.order_id}\n",
    )
    await enqueue(session, SendMail(mail_id=mail_id))


async def write_notice(
    session: Session, *, client_id: str, recipient: str, event_type: str, subject: str, text: str
) -> None:
    """Write a mail to a client about the client's own settings, such as a disabled endpoint, and the mail's job."""
    mail_id = await session.scalar(
        insert(Mail)
        .values(
            event_id=func.uuidv7(),
            client_id=client_id,
            event_type=event_type,
            recipient=recipient,
            subject=subject,
            text=text,
        )
        .returning(Mail.id)
    )
    assert mail_id is not None  # noqa: S101  for the type checker: INSERT … RETURNING returns a row or raises
    await enqueue(session, SendMail(mail_id=mail_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class MailToSend:
    """A mail as its job needs it. `must_wait` is True if an earlier mail of the same order is still pending. Customers
    get the mails about an order in the order of its events.
    """

    event_id: UUID
    recipient: str
    subject: str
    text: str
    status: str
    must_wait: bool


async def read_mail(session: Session, mail_id: UUID) -> MailToSend:
    """The mail to which a job belongs. The mail exists, because it was committed together with the job."""
    (row,) = await session.fetch(_SQL["read_mail"], mail_id=mail_id)
    return MailToSend(**row)


async def settle_mail(session: Session, mail_id: UUID, status: MailStatus, reason: str | None = None) -> None:
    """Mark the mail as sent or dead. Does nothing if another worker has marked the mail already."""
    settled = await session.fetch(
        _SQL["settle_mail"], mail_id=mail_id, status=status.value, reason=reason, sources=MAIL.sources(status)
    )
    for mail in settled:
        write = log.error if status is MailStatus.DEAD else log.info
        order_id = mail["order_id"]
        log_after_commit(
            session, write, "mail_settled", mail_id=mail_id, order_id=order_id, status=status.value, reason=reason
        )


async def list_mails(session: Session, *, client_id: str, order_id: UUID) -> MailList:
    """The mails about one of the client's orders, by version. The list is empty for an order of another client."""
    mails = await session.scalars(
        select(Mail).where(Mail.client_id == client_id, Mail.order_id == order_id).order_by(Mail.version)
    )
    return MailList(
        items=[
            MailView(
                id=mail.id,
                order_id=order_id,
                event=mail.event_type,
                recipient=mail.recipient,
                subject=mail.subject,
                status=MailStatus(mail.status).value,
                reason=mail.reason,
                created_at=mail.created_at,
            )
            for mail in mails
        ]
    )
