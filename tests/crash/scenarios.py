"""What is bought, called off and disturbed so that a process comes to a point. Where one waits for the death itself,
what it disturbs has to last until then; everything else is healed when the process has died.
"""

from crash_stage import Act
from holdfast_local.chaos_faults import flush
from redis.asyncio import Redis

LATENCY_SECONDS = 1.0  # of whoever is called, where a process dies with its call under way


async def bought(act: Act) -> None:
    await act.buy()


async def declined(act: Act) -> None:
    await act.buy("pm_card_declined")


async def failing_later(act: Act) -> None:
    """Accepted, and then failed: the provider's webhook says so."""
    await act.buy("pm_card_fails_later")


async def called_off(act: Act) -> None:
    """Confirmed, then called off: charged and refunded."""
    await act.buy_and_call_off()


async def called_off_at_once(act: Act) -> None:
    """Called off before its payment is asked for: what payments hears first is that it shall be void."""
    act.stage.pause("orders-worker")
    order = await act.buy()
    await act.call_off(order)
    act.stage.resume("orders-worker")


async def unreported(act: Act) -> None:
    """The provider's webhooks never come, so that it has to be asked."""
    await act.stage.provider(webhook_drop_rate=1.0)
    await act.buy()
    await act.death()


async def unreported_refund(act: Act) -> None:
    order = await act.buy()
    await act.stage.until_status("confirmed", order)
    await act.stage.provider(webhook_drop_rate=1.0)
    await act.call_off(order)
    await act.death()


async def failing_refund(act: Act) -> None:
    """The first refund fails, another one is made."""
    order = await act.buy()
    await act.stage.until_status("confirmed", order)
    await act.stage.provider(refund_failure_rate=1.0, capture_delay_seconds=1.0)
    await act.call_off(order)
    await act.stage.until(lambda: act.stage.refunds(order), what="a first refund is accepted")
    await act.stage.provider()


async def unreachable_provider(act: Act) -> None:
    """Connections to it are refused while it starts again: such an attempt certainly had no effect."""
    act.stage.signal("payment-provider")
    await act.buy()


async def slow_provider(act: Act) -> None:
    await act.stage.provider(latency_seconds=LATENCY_SECONDS)
    await act.buy()
    await act.death()


async def slow_refund(act: Act) -> None:
    order = await act.buy()
    await act.stage.until_status("confirmed", order)
    await act.stage.provider(latency_seconds=LATENCY_SECONDS)
    await act.call_off(order)
    await act.death()


async def slow_mailbox(act: Act) -> None:
    await act.stage.mailbox(latency_seconds=LATENCY_SECONDS)
    await act.buy()
    await act.death()


async def slow_customer(act: Act) -> None:
    await act.stage.customer(latency_seconds=LATENCY_SECONDS)
    await act.buy()
    await act.death()


async def silent_payments(act: Act) -> None:
    """Payments' API stands still with the request in hand, and serves it when the caller is dead."""
    act.stage.pause("payments-api")
    await act.buy()
    await act.death()
    act.stage.resume("payments-api")


async def silent_payments_when_called_off(act: Act) -> None:
    order = await act.buy()
    await act.stage.until_status("confirmed", order)
    act.stage.pause("payments-api")
    await act.call_off(order)
    await act.death()
    act.stage.resume("payments-api")


async def provider_away(act: Act) -> None:
    """The job fails, and is to be tried again."""
    await act.stage.provider(unavailable=True)
    await act.buy()
    await act.death()


async def lease_expired(act: Act) -> None:
    """A first death leaves a job behind; the second one is that of whoever finds it, which may be at its start."""
    claimed = "charge_payment claimed"
    act.stage.arm(act.program, claimed)
    await act.buy()
    await act.stage.until_reached(act.program, claimed)
    act.stage.arm(act.program, act.point)


async def told_to_stop(act: Act) -> None:
    """SIGTERM comes while the provider hangs: the job is handed back."""
    await act.stage.provider(hang=True)
    await act.buy()
    await act.stage.until_job("payments", "charge_payment")
    act.stage.terminate(act.program)
    await act.death()


async def unknown_job(act: Act) -> None:
    """No handler here runs it, so that it is buried; the one job that nobody will miss."""
    await act.stage.execute(
        "payments",
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts)"
        " VALUES ('nobodys', 'default', 0, '{}', 1, 3)",
    )
    await act.death()
    query = "SELECT FROM job WHERE name = 'nobodys' AND status = 'dead'"
    await act.stage.until(lambda: act.stage.fetch("payments", query), what="it is a dead letter")
    await act.stage.execute("payments", "DELETE FROM job WHERE name = 'nobodys'")


async def unreadable_event(act: Act) -> None:
    """It becomes one dead letter, however often it is delivered."""
    async with Redis.from_url(act.stage.platform.installation.valkey.dsn) as redis:
        await redis.xadd("events:payments", {"event": "unreadable"})

        async def is_acknowledged() -> bool:
            [group] = await redis.xinfo_groups("events:payments")
            return group["pending"] == 0

        await act.death()
        await act.stage.until(is_acknowledged, what="it is acknowledged")
    assert len(await act.stage.fetch("orders", "DELETE FROM dead_event RETURNING id")) == 1


async def order_without_a_job(act: Act) -> None:
    """Its job is gone, as when all its attempts were used up: only its state is left."""
    act.stage.pause("orders-worker")
    order = await act.buy()
    await act.stage.execute("orders", "DELETE FROM job WHERE payload->>'order_id' = $1", order)
    await act.stage.execute(
        "orders", "UPDATE orders SET updated_at = now() - interval '1 hour' WHERE id::text = $1", order
    )
    act.stage.resume("orders-worker")


async def order_past_its_limit(act: Act) -> None:
    act.stage.pause("orders-worker")
    await act.stage.provider(hang=True)
    order = await act.buy()
    act.orders[order] = "cancelled"
    await act.stage.execute(
        "orders", "UPDATE orders SET created_at = now() - interval '2 days' WHERE id::text = $1", order
    )
    act.stage.resume("orders-worker")
    await act.death()


async def payment_without_a_job(act: Act) -> None:
    act.stage.pause("payments-worker")
    order = await act.buy()
    await act.stage.until_payment(order, "created")
    await act.stage.execute("payments", "DELETE FROM job WHERE name = 'charge_payment'")
    await act.stage.execute("payments", "UPDATE payment SET updated_at = now() - interval '1 hour'")
    act.stage.resume("payments-worker")


async def mail_without_a_job(act: Act) -> None:
    await act.stage.mailbox(reject_rate=1.0)
    order = await act.buy()
    query = "DELETE FROM job WHERE name = 'send_mail' AND status = 'ready' RETURNING id"
    await act.stage.until(lambda: act.stage.fetch("notifications", query), what="a mail waits for its next attempt")
    await act.stage.execute(
        "notifications", "UPDATE mail SET created_at = now() - interval '1 minute' WHERE order_id::text = $1", order
    )
    await act.death()


async def forgetful_redis(act: Act) -> None:
    """What was published is there no more, and published again."""
    act.stage.disarm()
    order = await act.buy()
    await act.stage.until_status("confirmed", order)
    act.stage.arm(act.program, act.point)
    await flush(act.stage.platform.installation)
