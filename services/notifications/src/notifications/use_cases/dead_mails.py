"""Functions of the command line for dead mails. The mail server has permanently refused a dead mail, and an operator
may send such a mail again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis.jobs import enqueue
from chassis.pooling import Session
from sqlalchemy import select, update

from notifications.messages import SendMail
from notifications.models import Mail, MailStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMail:
    """A dead mail, as `mails dead` prints it. `order_id` is None for a mail that belongs to no order. `reason` is the
    mail server's answer.
    """

    id: UUID
    event_type: str
    order_id: UUID | None
    settled_at: datetime | None
    reason: str | None


async def list_dead_mails(session: Session, *, count: int = 100) -> list[DeadMail]:
    """The `count` oldest dead mails."""
    query = select(Mail).where(Mail.status == MailStatus.DEAD.value).order_by(Mail.id).limit(count)
    return [
        DeadMail(
            id=mail.id,
            event_type=mail.event_type,
            order_id=mail.order_id,
            settled_at=mail.settled_at,
            reason=mail.reason,
        )
        for mail in await session.scalars(query)
    ]


async def resend_mails(session: Session, *, mail_id: UUID | None = None, dry_run: bool = False) -> Sequence[UUID]:
    """Make one dead mail (`mail_id`) or all dead mails pending again, each with a new job. Returns the ids of these
    mails.

    Each mail keeps its Message-ID. A mail that is not dead stays unchanged. So if an operator enters `mails resend`
    twice, the second command sends no second copy. A dry run returns the ids and changes nothing.
    """
    query = select(Mail.id).where(Mail.status == MailStatus.DEAD.value).order_by(Mail.id).with_for_update()
    if mail_id is not None:
        query = query.where(Mail.id == mail_id)
    found = (await session.scalars(query)).all()
    for found_id in () if dry_run else found:
        await session.execute(
            update(Mail)
            .where(Mail.id == found_id)
            .values(status=MailStatus.PENDING.value, reason=None, settled_at=None)
        )
        await enqueue(session, SendMail(mail_id=found_id))
    return found
