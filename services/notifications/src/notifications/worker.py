"""The composition root of the worker process: which jobs it runs, which events it consumes, and with what."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.worker import Stages, WorkerResources, run_worker_process
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
    run_worker_process(live, version=version("holdfast-notifications"), open_parts=partial(_open_parts, live.current))


@asynccontextmanager
async def _open_parts(settings: NotificationsSettings, resources: WorkerResources) -> AsyncIterator[Stages]:
    sender = WebhookSender(settings.webhooks)
    job_runner = resources.job_runner(
        {
            SendMail: partial(jobs.send_mail, resources.database, Mailer(settings.smtp)),
            MisplacedDelivery: partial(jobs.move_to_its_queue, resources.database),
        }
    )
    suspects = Bulkhead("suspect_customers", limit=settings.webhooks.suspect_concurrency)
    # Half of the pool: the rest is for mails, events, and the heartbeats of all jobs.
    turns = asyncio.Semaphore(max(1, settings.database.pool_size // 2))
    deliver = partial(
        jobs.deliver_webhook, resources.database, sender, suspects, turns, settings.webhooks, random.random
    )
    webhook_runner = resources.job_runner(
        {DeliverWebhook: deliver}, queue=WEBHOOKS_QUEUE, concurrency=settings.webhooks.concurrency
    )
    consumer = resources.consumer([ORDERS_STREAM], dict.fromkeys(events.ORDER_EVENTS, events.on_order))
    sweep = partial(use_cases.sweep, stale_after=settings.sweeps.stale_after, batch=settings.sweeps.batch)
    prune = partial(idempotency.prune, retention=settings.idempotency.retention)
    scheduler = resources.scheduler(
        [
            Schedule(name="sweep", every=settings.sweeps.every, run=sweep),
            Schedule(name="prune_idempotency_records", every=idempotency.PRUNE_EVERY, run=prune),
        ]
    )
    try:
        yield [[job_runner, webhook_runner, consumer, scheduler]]
    finally:
        await sender.close()
