"""The handlers of notifications' jobs."""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from uuid import UUID

from chassis.calls.bulkhead import Bulkhead
from chassis.errors import BulkheadFull
from chassis.jobs import RunningJob, enqueue
from chassis.logging import add_to_canonical_line, put_on_canonical_line
from chassis.pooling import Database
from chassis.telemetry import SpanKind, span
from chassis.webhooks import AttemptAnswer, judge, webhook_delivery_attempts

from notifications import use_cases
from notifications.mailer import Mailer, MailRefused
from notifications.messages import DeliverWebhook, MisplacedDelivery, SendMail
from notifications.models import MailStatus
from notifications.settings import WebhookSettings
from notifications.use_cases import deliveries
from notifications.use_cases.deliveries import Attempt
from notifications.webhook_sender import WebhookSender

WAIT_FOR_EARLIER = 0.5  # seconds until the next look; an earlier mail takes a few milliseconds unless it fails
RECORDING_SECONDS = 5.0  # from the end of an attempt until its record is committed


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
            await enqueue(session, payload, delay=WAIT_FOR_EARLIER)
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


async def deliver_webhook(
    database: Database,
    sender: WebhookSender,
    suspects: Bulkhead,
    turns: asyncio.Semaphore,
    settings: WebhookSettings,
    random: Callable[[], float],
    job: RunningJob,
    payload: DeliverWebhook,
) -> None:
    """Protocol, row 14b: make the attempt that is due at the endpoint, if any, then record what came of it.

    An endpoint whose latest attempt failed or took long needs one of the `suspects`' places, or waits for as long as
    an attempt may take: a dead customer may cost others the place of one attempt, not of all that follow. More
    deliveries are under way than the pool has connections, so they take `turns` at the database: an attempt that was
    made and not recorded, since no connection became free, would be made again.
    """
    async with turns, database.read() as session:
        is_suspect = await deliveries.is_suspect(session, payload.endpoint_id)
    try:
        with suspects if is_suspect else nullcontext():
            await _deliver(database, sender, turns, settings, random, job, payload.endpoint_id)
    except BulkheadFull:
        async with turns, database.transaction() as session:
            await deliveries.postpone(session, payload.endpoint_id, delay=settings.attempt_timeout)
            await job.complete_in(session)


async def move_to_its_queue(database: Database, job: RunningJob, payload: MisplacedDelivery) -> None:
    """A delivery that an older process has put among the mails, which must not wait for customers."""
    async with database.transaction() as session:
        await enqueue(session, DeliverWebhook(endpoint_id=payload.endpoint_id))
        await job.complete_in(session)


async def _deliver(
    database: Database,
    sender: WebhookSender,
    turns: asyncio.Semaphore,
    settings: WebhookSettings,
    random: Callable[[], float],
    job: RunningJob,
    endpoint_id: UUID,
) -> None:
    """A crash between the two transactions makes one more attempt, with the same webhook id, once the lease of this one
    is over.
    """
    async with turns, database.transaction() as session:
        lease = settings.attempt_timeout + RECORDING_SECONDS
        attempt = await deliveries.begin_attempt(session, endpoint_id, lease=lease)
        if attempt is None:
            await job.complete_in(session)
            return
    started = time.perf_counter()
    answer = await _send(sender, attempt)
    suspect = answer.result != "delivered" or time.perf_counter() - started > settings.slow_after
    verdict = judge(answer, attempt=attempt.number, schedule=settings.schedule, jitter=settings.jitter, random=random)
    async with turns, database.transaction() as session:
        await deliveries.record_attempt(
            session, attempt, answer, verdict, suspect=suspect, disable_after=settings.disable_after
        )
        await job.complete_in(session)


async def _send(sender: WebhookSender, attempt: Attempt) -> AttemptAnswer:
    """In the trace of the delivery's order: the job may have been written by another's."""
    with span("deliver webhook", kind=SpanKind.CLIENT, traceparent=attempt.traceparent):
        answer = await sender.send(
            attempt.url,
            attempt.body,
            webhook_id=str(attempt.delivery_id),
            secret=attempt.secret,
            old_secrets=attempt.old_secrets,
        )
    webhook_delivery_attempts.labels(answer.result).inc()
    add_to_canonical_line(webhook_attempts=1)
    put_on_canonical_line(delivery_id=str(attempt.delivery_id), delivery_attempt=attempt.number, result=answer.result)
    return answer
