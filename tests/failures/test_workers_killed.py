"""Each worker is killed while it holds a job: the lease runs out, and another process ends what it began."""

import signal

from stage import Stage


async def assert_taken_over(stage: Stage, worker: str, job: str) -> None:
    """The successor of a killed worker has found its lease expired."""

    async def is_counted() -> bool:
        return (await stage.metrics(worker)).total("job_leases_expired_total", job=job) >= 1

    await stage.until(is_counted, what=f"the lease of a {job} expires")


async def test_the_payments_worker_is_killed_while_it_charges_and_the_customer_pays_once(stage: Stage):
    await stage.provider(hang=True)
    [order] = await stage.buy()
    await stage.until_job("payments", "charge_payment")
    await stage.kill("payments-worker")
    await stage.provider()
    await stage.until_status("confirmed", order)
    await assert_taken_over(stage, "payments-worker", "charge_payment")
    assert await stage.charges(order) == ["captured"]
    await stage.assert_sound()


async def test_the_payments_worker_is_killed_after_the_provider_has_acted_and_the_customer_pays_once(stage: Stage):
    """The provider has the charge when the worker dies waiting for the answer."""
    await stage.provider(latency_seconds=1.5, webhook_drop_rate=1.0)
    [order] = await stage.buy()
    await stage.until_job("payments", "charge_payment")
    stage.signal("payments-worker", signal.SIGKILL)
    await stage.until(lambda: stage.charges(order), what="the provider acts for a caller that is gone")
    await stage.provider()
    await stage.until_status("confirmed", order)
    assert await stage.charges(order) == ["captured"]
    await stage.assert_sound()


async def test_the_orders_worker_is_killed_while_it_asks_for_a_payment(stage: Stage):
    stage.pause("payments-api")
    [order] = await stage.buy()
    await stage.until_job("orders", "request_payment")
    await stage.kill("orders-worker")
    stage.resume("payments-api")
    await stage.until_status("confirmed", order)
    await assert_taken_over(stage, "orders-worker", "request_payment")
    await stage.assert_sound()


async def test_the_notifications_worker_is_killed_while_it_sends_a_mail(stage: Stage):
    await stage.mailbox(hang=True)
    [order] = await stage.buy()
    await stage.until_job("notifications", "send_mail")
    await stage.kill("notifications-worker")
    await stage.mailbox()
    await stage.until_status("confirmed", order)
    await stage.assert_sound()
    await assert_taken_over(stage, "notifications-worker", "send_mail")


async def test_the_notifications_worker_is_killed_after_the_250_and_the_copy_has_the_same_message_id(stage: Stage):
    """The mailbox has the mail; whoever sent it dies before it can record that: the copy that is allowed."""
    known = len(await stage.client.read_message_ids())
    await stage.mailbox(latency_seconds=1.0)
    [order] = await stage.buy()
    await stage.until_job("notifications", "send_mail")
    async with stage.session("notifications") as connection, connection.transaction():
        await connection.execute("SELECT FROM mail WHERE order_id::text = $1 FOR UPDATE", order)
        await stage.until_lock_waiter("notifications", "notifications-worker")
        assert len(await stage.client.read_message_ids()) == known + 1
        await stage.kill("notifications-worker")
    await stage.mailbox()
    await stage.until_status("confirmed", order)
    await stage.assert_sound()
    mails = await stage.client.read_message_ids()
    assert len(mails) == known + 3
    assert len(set(mails)) == known + 2


async def test_the_webhook_ingest_worker_is_killed_while_it_publishes_an_event(stage: Stage):
    async with stage.session("webhook-ingest") as connection, connection.transaction():
        await connection.execute("LOCK TABLE outbox IN SHARE MODE")  # the webhook is stored, its event has to wait
        [order] = await stage.buy()
        await stage.until_job("webhook-ingest", "publish_event")
        await stage.kill("webhook-ingest-worker")
    await stage.until_status("confirmed", order)
    await stage.assert_sound()
