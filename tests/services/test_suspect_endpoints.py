"""Endpoints that failed last time or take long share a few places: dead customers delay nobody else."""

import asyncio
from functools import partial

import pytest
from backends import FreshDatabase
from chassis.calls.bulkhead import Bulkhead
from chassis.pooling import Database
from customers import Webhooks, webhook_settings
from harness import execute, one, rows
from notifications import worker
from notifications.messages import DeliverWebhook
from notifications.settings import WebhookSettings
from notifications.webhook_sender import WebhookSender
from pydantic import ValidationError
from sqlalchemy import text
from waiting import eventually


async def is_suspect(webhooks: Webhooks) -> bool:
    found: bool = (await one(webhooks.database, "SELECT is_suspect FROM webhook_endpoint")).is_suspect
    return found


async def test_a_failure_makes_an_endpoint_suspect_and_the_next_delivery_clears_it(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    assert not await is_suspect(webhooks)
    webhooks.customer.answer(500)
    await webhooks.attempt()
    assert await is_suspect(webhooks)
    await webhooks.pass_time()
    await webhooks.attempt()
    assert not await is_suspect(webhooks)


async def test_a_slow_success_makes_an_endpoint_suspect_too(webhooks: Webhooks) -> None:
    """Or a customer who answers just before the time-out, always with 200, would keep as many places as it likes."""
    webhooks.settings = webhooks.settings.model_copy(update={"slow_after": 0.0})
    await webhooks.create()
    await webhooks.happen(1)
    await webhooks.attempt()
    assert (await webhooks.delivery()).status == "delivered"
    assert await is_suspect(webhooks)


async def test_without_a_slot_a_suspect_waits_for_a_time_out_and_uses_up_no_attempt(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1, 2, 3)
    await execute(webhooks.database, "UPDATE webhook_endpoint SET is_suspect = true")
    with webhooks.suspect_slots:  # the only slot
        await webhooks.work()
    assert webhooks.customer.arrived == []
    assert {row.attempts for row in await rows(webhooks.database, "SELECT attempts FROM webhook_delivery")} == {0}
    waiting = await one(
        webhooks.database, "SELECT name, extract(epoch FROM run_at - created_at)::float8 AS seconds FROM job"
    )
    assert (waiting.name, waiting.seconds) == ("deliver_webhook", pytest.approx(webhooks.settings.attempt_timeout))
    await webhooks.pass_time()
    await webhooks.work()
    assert webhooks.customer.types == ["order.placed", "order.confirmed", "order.cancelled"]


async def test_an_endpoint_that_is_not_suspect_needs_none_of_their_slots(webhooks: Webhooks) -> None:
    await webhooks.create()
    await webhooks.happen(1)
    with webhooks.suspect_slots:
        await webhooks.attempt()
    assert webhooks.customer.types == ["order.placed"]


async def test_of_many_suspects_due_at_once_no_more_are_called_than_have_a_slot(webhooks: Webhooks) -> None:
    webhooks.suspect_slots = Bulkhead("suspect_customers", limit=2)
    webhooks.sender = WebhookSender(webhook_settings(webhooks.customer.port, attempt_timeout=20.0))
    for _ in range(5):
        await webhooks.create()
    await webhooks.happen(1)
    await execute(webhooks.database, "UPDATE webhook_endpoint SET is_suspect = true")
    webhooks.customer.hangs = True
    attempts = [asyncio.create_task(webhooks.attempt()) for _ in range(5)]

    async def all_but_two_have_given_up() -> bool:
        return sum(attempt.done() for attempt in attempts) == 3 and len(webhooks.customer.arrived) == 2

    await eventually(all_but_two_have_given_up)
    assert webhooks.suspect_slots.in_flight == 2
    for attempt in attempts:
        attempt.cancel()
    await asyncio.gather(*attempts, return_exceptions=True)
    await webhooks.sender.close()
    assert webhooks.suspect_slots.in_flight == 0


async def test_deliveries_that_wait_at_the_database_leave_connections_for_others(
    empty_database: FreshDatabase, webhooks: Webhooks
) -> None:
    """Or an attempt that was made could not be recorded, and a job not kept alive, while the others hold the pool."""
    few = (await empty_database("notifications")).model_copy(update={"pool_size": 2, "pool_timeout": 0.2})
    webhooks.database_slots = asyncio.Semaphore(1)
    for _ in range(5):
        await webhooks.create()
    await webhooks.happen(1)
    await execute(webhooks.database, "DELETE FROM job WHERE name = 'send_mail'")
    whole, webhooks.database = webhooks.database, Database(few, pool="few", application_name="few")
    try:
        async with whole.transaction() as session:
            await session.execute(text("SELECT FROM webhook_endpoint FOR UPDATE"))
            attempts = [asyncio.create_task(webhooks.attempt()) for _ in range(2)]
            await eventually(partial(is_waiting_for_a_lock, whole))
            assert (await one(webhooks.database, "SELECT 1 AS one")).one == 1
        assert await asyncio.gather(*attempts) == [None, None]
    finally:
        await webhooks.database.close()
        webhooks.database = whole
    assert len(webhooks.customer.arrived) == 2


async def is_waiting_for_a_lock(database: Database) -> bool:
    query = (
        "SELECT count(*) AS waiting FROM pg_stat_activity WHERE application_name = 'few' AND wait_event_type = 'Lock'"
    )
    return bool((await one(database, query)).waiting)


def test_deliveries_have_a_queue_of_their_own_and_suspects_never_all_of_its_slots() -> None:
    assert DeliverWebhook.options.queue == worker.WEBHOOKS_QUEUE == "webhooks"
    with pytest.raises(ValidationError, match="suspect_concurrency"):
        WebhookSettings(concurrency=8, suspect_concurrency=8)
