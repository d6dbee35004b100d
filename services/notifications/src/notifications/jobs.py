"""The handlers of the notifications service's jobs."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import UUID

from chassis.calls.bulkhead import Bulkhead
from chassis.errors import BulkheadFull
from chassis.jobs import RunningJob, enqueue
from chassis.logging import add_to_canonical_line, put_on_canonical_line
from chassis.pooling import Database
from chassis.telemetry import SpanKind, span
from chassis.webhooks import AttemptAnswer, decide_delivery, webhook_delivery_attempts

from notifications import use_cases
from notifications.mailer import Mailer, MailRefused
from notifications.messages import DeliverWebhook, MisplacedDelivery, SendMail
from notifications.models import MailStatus
from notifications.settings import WebhookSettings
from notifications.use_cases import attempts
from notifications.use_cases.attempts import Attempt
from notifications.webhook_sender import WebhookSender

# Seconds between two checks whether an earlier mail of the same order was sent. Usually a mail is sent in milliseconds.
WAIT_FOR_EARLIER = 0.5
# The longest time, in seconds, from the end of an attempt until its answer is committed.
RECORDING_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryTools:
    """The objects with which jobs deliver webhooks. The composition root in `worker.py` builds these objects.

    `suspect_slots` limits the concurrent attempts at suspect endpoints, whose latest attempt failed or was slow.
    `database_slots` limits the deliveries that use a database connection at the same time, because more deliveries may
    be under way than the pool has connections.
    """

    database: Database
    sender: WebhookSender
    suspect_slots: Bulkhead
    database_slots: asyncio.Semaphore
    settings: WebhookSettings
    random: Callable[[], float]


async def send_mail(database: Database, mailer: Mailer, job: RunningJob, payload: SendMail) -> None:
    """Step 14b of an order (docs/reference/protocol.md): hand the mail to the mail server, then record the result.

    If the process dies after the mail server has accepted the mail and before the result is recorded, the retry sends a
    second copy with the same Message-ID. SMTP has no idempotency key that would prevent the copy.
    """
    async with database.read() as session:
        mail = await use_cases.read_mail(session, payload.mail_id)
    if mail.status != MailStatus.PENDING:
        return
    if mail.must_wait:
        # This mail waits for an earlier mail of its order. The wait is not a failure, so a new job replaces this job,
        # and no attempt is used up.
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


async def deliver_webhook(tools: DeliveryTools, job: RunningJob, payload: DeliverWebhook) -> None:
    """Step 14b of an order (docs/reference/protocol.md): make the attempt that is due at the endpoint, if any, then
    record its answer.

    An endpoint is suspect if its latest attempt failed or was slow. An attempt at a suspect endpoint needs one of
    `suspect_slots`. If no slot is free, the delivery is postponed by `attempt_timeout`. An endpoint that has just
    stopped answering is not suspect yet, so it may delay the deliveries to other endpoints during one attempt. After
    this attempt the endpoint is suspect, and `suspect_slots` limits its further attempts.

    Each transaction waits for one of `database_slots`. Otherwise there might be no free connection to record the answer
    to an attempt, and the webhook would be sent again.
    """
    try:
        with ExitStack() as slot:
            await _deliver(tools, job, payload.endpoint_id, take_slot=lambda: slot.enter_context(tools.suspect_slots))
    except BulkheadFull:
        async with tools.database_slots, tools.database.transaction() as session:
            await attempts.postpone(session, payload.endpoint_id, delay=tools.settings.attempt_timeout)
            await job.complete_in(session)


async def move_to_its_queue(database: Database, job: RunningJob, payload: MisplacedDelivery) -> None:
    """Move the job of a delivery to the queue of deliveries. A process of an older version put this job into the queue
    of mails, where it would delay the mails.
    """
    async with database.transaction() as session:
        await enqueue(session, DeliverWebhook(endpoint_id=payload.endpoint_id))
        await job.complete_in(session)


async def _deliver(
    tools: DeliveryTools, job: RunningJob, endpoint_id: UUID, *, take_slot: Callable[[], object]
) -> None:
    """Begin an attempt, send the webhook, and record the answer. If the process dies before the answer is recorded, the
    delivery is attempted again after the attempt's lease, during which no other attempt begins.
    """
    settings = tools.settings
    async with tools.database_slots, tools.database.transaction() as session:
        lease = settings.attempt_timeout + RECORDING_SECONDS
        attempt = await attempts.begin_attempt(session, endpoint_id, lease=lease, take_slot=take_slot)
        if attempt is None:
            await job.complete_in(session)
            return
    started = time.perf_counter()
    answer = await _send(tools.sender, attempt)
    suspect = answer.result != "delivered" or time.perf_counter() - started > settings.slow_after
    decision = decide_delivery(
        answer, attempt=attempt.number, schedule=settings.schedule, jitter=settings.jitter, random=tools.random
    )
    async with tools.database_slots, tools.database.transaction() as session:
        await attempts.record_attempt(
            session, attempt, answer, decision, suspect=suspect, disable_after=settings.disable_after
        )
        await job.complete_in(session)


async def _send(sender: WebhookSender, attempt: Attempt) -> AttemptAnswer:
    """Send the webhook in the trace of its own order, because the job may belong to the trace of another order."""
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
