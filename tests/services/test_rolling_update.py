"""Processes of the version before, beside ours for a while: what they still do the old way comes to the same."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from backends import FreshDatabase
from chassis.config.settings import JobSettings
from chassis.jobs import JobPayload
from chassis.jobs.runner import JobRunner
from chassis.pooling.wakeup import Wakeups
from customers import Webhooks
from harness import execute, rows
from notifications import worker
from notifications.settings import SmtpSettings
from waiting import eventually

type Handlers = Mapping[type[JobPayload], Any]


async def handlers_of_mails(webhooks: Webhooks) -> Handlers:
    """What the worker's composition root gives to the runner of the default queue."""
    given: list[Handlers] = []

    def job_runner(handlers: Handlers, *, queue: str = "default", **_options: object) -> None:
        if queue == "default":
            given.append(handlers)

    resources = SimpleNamespace(
        database=webhooks.database, job_runner=job_runner, consumer=lambda *_: None, scheduler=lambda *_: None
    )
    settings = SimpleNamespace(
        webhooks=webhooks.settings,
        smtp=SmtpSettings(),
        database=SimpleNamespace(pool_size=10),
        sweeps=SimpleNamespace(every=60, stale_after=60, batch=1),
        idempotency=SimpleNamespace(retention=60),
    )
    live: Any = SimpleNamespace(current=settings)
    async with worker._open_parts(live, resources):
        (handlers,) = given
        return handlers


async def test_a_delivery_that_an_older_process_enqueued_among_the_mails_is_made_all_the_same(
    empty_database: FreshDatabase, webhooks: Webhooks
) -> None:
    database = await empty_database("notifications")
    await webhooks.create()
    await webhooks.happen(1)
    await execute(webhooks.database, "DELETE FROM job WHERE name = 'send_mail'")
    await execute(webhooks.database, "UPDATE job SET queue = 'default'")  # as before notifications_0003
    runner = JobRunner(
        webhooks.database,
        await handlers_of_mails(webhooks),
        JobSettings(poll_interval=0.02),
        wakeups=Wakeups(database, application_name="test"),
        drain_timeout=1,
    )
    stopping = asyncio.Event()
    running = asyncio.create_task(runner.run(stopping))

    async def is_moved() -> bool:
        found = await rows(webhooks.database, "SELECT queue, name, status FROM job")
        return [tuple(row) for row in found] == [("webhooks", "deliver_webhook", "ready")]

    await eventually(is_moved)
    stopping.set()
    await running
    await webhooks.work()
    assert webhooks.customer.types == ["order.placed"]
