"""Fifty customers' endpoints, ten of which hang: the others hear as soon as they do without them."""

import asyncio
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web
from chassis.calls.bulkhead import Bulkhead
from chassis.config.settings import DatabaseSettings, JobSettings
from chassis.jobs.runner import JobRunner
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from chassis.webhooks import new_secret
from notifications import jobs
from notifications.messages import WEBHOOKS_QUEUE, DeliverWebhook, OrderPlaced
from notifications.settings import WebhookSettings
from notifications.use_cases import deliveries
from notifications.webhook_sender import WebhookSender
from sqlalchemy import text

sys.path.append(str(Path(__file__).parents[1] / "services"))
from customers import LOOPBACK

ENDPOINTS, HANGING = 50, 10
EVENTS, EVENTS_PER_SECOND = 200, 25
CUSTOMER_SECONDS = 0.25
"""What a customer's server takes to answer: most of the time until a delivery is settled, as in life."""
LEAST_ROUNDS, MOST_ROUNDS = 2, 6
"""Interleaved, and the best of all on either side: a busy machine only adds, and more rounds may mend what it did."""

pytestmark = pytest.mark.timeout(400)


@asynccontextmanager
async def customers() -> AsyncIterator[int]:
    """A port: /hangs never answers, any other path does so after a moment."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(CUSTOMER_SECONDS if request.path != "/hangs" else 3600)
        return web.Response(status=204)

    application = web.Application()
    application.router.add_post("/{path}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def delivering(settings: DatabaseSettings, webhooks: WebhookSettings) -> AsyncIterator[Database]:
    """The worker's part that delivers webhooks, as its composition root puts it together."""
    async with AsyncExitStack() as stack:
        wakeups = await stack.enter_async_context(Wakeups(settings, application_name="test"))
        database = Database(settings, pool="jobs", application_name="test", notify=wakeups.notify)
        stack.push_async_callback(database.close)
        sender = WebhookSender(webhooks)
        stack.push_async_callback(sender.close)
        tools = jobs.DeliveryTools(
            database=database,
            sender=sender,
            suspect_slots=Bulkhead("suspect_customers", limit=webhooks.suspect_concurrency),
            database_slots=asyncio.Semaphore(5),
            settings=webhooks,
            random=random.random,
        )
        runner = JobRunner(
            database,
            {DeliverWebhook: partial(jobs.deliver_webhook, tools)},
            JobSettings(queue=WEBHOOKS_QUEUE, concurrency=webhooks.concurrency),
            wakeups=wakeups,
            drain_timeout=0.1,
        )
        stopping = asyncio.Event()
        running = asyncio.create_task(runner.run(stopping))
        try:
            yield database
        finally:
            stopping.set()
            await running


async def p99(settings: DatabaseSettings, *, hanging: int) -> float:
    """Seconds until 99 of 100 deliveries to endpoints that answer are settled, beside so many that hang."""
    async with customers() as port:
        egress = {"allow_insecure": True, "allowed_ports": (port,), "allowed_networks": (LOOPBACK,)}
        webhooks = WebhookSettings.model_validate(
            {"egress": egress, "attempt_timeout": 4, "connect_timeout": 1, "schedule": (0.5,) * 20, "jitter": 0.2}
        )
        async with delivering(settings, webhooks) as database:
            for number in range(ENDPOINTS - HANGING + hanging):
                path = "hangs" if number >= ENDPOINTS - HANGING else "answers"
                await create_endpoint(database, client=f"client-{number}", url=f"http://127.0.0.1:{port}/{path}")
            await place_orders(database)
            async with database.read() as session:
                waits = (
                    await session.scalars(
                        text(
                            "SELECT extract(epoch FROM settled_at - webhook_delivery.created_at)::float8"
                            " FROM webhook_delivery JOIN webhook_endpoint ON webhook_endpoint.id = endpoint_id"
                            " WHERE url LIKE '%/answers' ORDER BY 1"
                        )
                    )
                ).all()
    assert len(waits) >= EVENTS * (ENDPOINTS - HANGING) // ENDPOINTS
    assert None not in waits
    found: float = waits[math.ceil(0.99 * len(waits)) - 1]
    return found


async def create_endpoint(database: Database, *, client: str, url: str) -> None:
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO webhook_endpoint (client_id, url, events, secret)"
                " VALUES (:client, :url, '{order.placed}', :secret)"
            ),
            {"client": client, "url": url, "secret": new_secret()},
        )


async def place_orders(database: Database) -> None:
    """One event after the other, each of the next client, at a steady rate; then as long as a delivery may take."""
    started = time.monotonic()
    for number in range(EVENTS):
        event = OrderPlaced(
            order_id=uuid4(),
            client_id=f"client-{number % ENDPOINTS}",
            customer_email="ada@example.com",
            amount=1,
            currency="EUR",
            reason=None,
        )
        async with database.transaction() as session:
            await deliveries.write_deliveries(
                session, event, event_id=uuid4(), version=1, occurred_at=datetime.now(UTC)
            )
        await asyncio.sleep(max(0.0, started + number / EVENTS_PER_SECOND - time.monotonic()))
    await asyncio.sleep(2)


async def test_customers_that_hang_delay_no_others(
    fresh_database: Callable[[str], Awaitable[DatabaseSettings]],
) -> None:
    alone: list[float] = []
    beside: list[float] = []
    for number in range(MOST_ROUNDS):
        alone.append(await p99(await fresh_database("notifications"), hanging=0))
        beside.append(await p99(await fresh_database("notifications"), hanging=HANGING))
        print(f"p99 alone {alone[-1]:.3f} s, beside {HANGING} that hang {beside[-1]:.3f} s")  # noqa: T201
        if number + 1 >= LEAST_ROUNDS and min(beside) <= 1.2 * min(alone):
            break
    assert min(beside) <= 1.2 * min(alone)
