"""The handler of notifications' job."""

from chassis.jobs import RunningJob, enqueue
from chassis.pooling import Database

from notifications import use_cases
from notifications.mailer import Mailer, MailRefused
from notifications.messages import SendMail
from notifications.models import MailStatus

WAIT_FOR_EARLIER = 0.5  # seconds until the next look; an earlier mail takes a few milliseconds unless it fails


async def send_mail(database: Database, mailer: Mailer, job: RunningJob, payload: SendMail) -> None:
    """Protocol, row 14b: hand the mail over, then record it. A crash in between sends one more copy, under the same
    Message-ID: SMTP has no key that would prevent it.
    """
    async with database.read() as session:
        mail = await use_cases.read_mail(session, payload.mail_id)
        must_wait = await use_cases.has_earlier_pending(session, mail)
    if mail.status != MailStatus.PENDING:
        return
    if must_wait:
        # Not a failure: a new job takes over, so that waiting uses up no attempts.
        async with database.transaction() as session:
            await enqueue(session, payload, unique_key=str(payload.mail_id), delay=WAIT_FOR_EARLIER)
            await job.complete_in(session)
        return
    status, reason = MailStatus.SENT, None
    try:
        await mailer.send(message_id=str(mail.event_id), recipient=mail.recipient, subject=mail.subject, text=mail.text)
    except MailRefused as error:
        status, reason = MailStatus.DEAD, str(error)
    async with database.transaction() as session:
        await use_cases.settle_mail(session, payload.mail_id, status, reason)
        await job.complete_in(session)
