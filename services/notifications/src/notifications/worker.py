"""The composition root of the worker process, which connects jobs, events and schedules with the resources that they
use.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.worker import Stages, WorkerResources, run_worker
from chassis.calls.bulkhead import Bulkhead
from chassis.config import Live
from chassis.jobs.schedules import Schedule
from chassis.retries import idempotency

from notifications import events, jobs, use_cases
from notifications.mailer import Mailer
from notifications.messages import ORDERS_STREAM, WEBHOOKS_QUEUE, DeliverWebhook, MisplacedDelivery, SendMail
from notifications.settings import NotificationsSettings
from notifications.webhook_sender import WebhookSender


def run(live: Live[NotificationsSettings]) -> None:
    run_worker(live, version=version("holdfast-notifications"), open_parts=_open_parts)


@asynccontextmanager
async def _open_parts(live: Live[NotificationsSettings], base: WorkerResources) -> AsyncIterator[Stages]:
    settings, database = live.current, base.database
    webhooks = settings.webhooks
    mailer = Mailer(settings.smtp)
    job_runner = base.job_runner(
        {
            SendMail: partial(jobs.send_mail, database, mailer),
            MisplacedDelivery: partial(jobs.move_to_its_queue, database),
        }
    )
    sender = WebhookSender(webhooks)
    tools = jobs.DeliveryTools(
        database=database,
        sender=sender,
        suspect_slots=Bulkhead("suspect_customers", limit=webhooks.suspect_concurrency),
        # Deliveries use at most half of the connections that the database pool keeps open. Mails, events and the
        # heartbeats of all jobs use the rest.
        database_slots=asyncio.Semaphore(max(1, settings.database.pool_size // 2)),
        settings=webhooks,
        random=random.random,
    )
    deliver = partial(jobs.deliver_webhook, tools)
    webhook_runner = base.job_runner({DeliverWebhook: deliver}, queue=WEBHOOKS_QUEUE, concurrency=webhooks.concurrency)
    consumer = base.consumer([ORDERS_STREAM], dict.fromkeys(events.ORDER_EVENTS, events.on_order))
    scheduler = base.scheduler(_schedules(settings))
    try:
        yield [[job_runner, webhook_runner, consumer, scheduler]]
    finally:
        mailer.close()
        await sender.close()


def _schedules(settings: NotificationsSettings) -> list[Schedule]:
    """The schedules enqueue jobs for pending mails and deliveries that have no job, and delete old answers to
    idempotency keys.
    """
    sweeps = settings.sweeps
    sweep = partial(use_cases.sweep, stale_after=sweeps.stale_after, batch=sweeps.batch)
    prune = partial(idempotency.prune, retention=settings.idempotency.retention)
    return [
        Schedule(name="sweep", every=sweeps.every, run=sweep),
        Schedule(name="prune_idempotency_records", every=idempotency.PRUNE_EVERY, run=prune),
    ]
