"""What is bought, called off and disturbed so that a process comes to a point. Where one waits for the death itself,
what it disturbs has to last until then; everything else is healed when the process has died.
"""

from http import HTTPStatus
from uuid import uuid4

from crash_stage import Act
from holdfast_local.chaos_faults import flush
from holdfast_local.demo_client import Endpoint
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


async def settled_unheard(act: Act) -> None:
    """Payments has the request and has settled the payment, and orders learns it from the answer to the repeated
    request: the event is marked as handled before orders reads it.
    """
    act.stage.pause("orders-worker")
    order = await act.buy("pm_card_declined")
    await act.stage.request_payment(order)
    await act.stage.until_payment(order, "failed")
    [event] = await act.stage.fetch("payments", "SELECT event_id FROM outbox WHERE payload->>'order_id' = $1", order)
    handled = "INSERT INTO inbox (consumer, event_id) VALUES ('orders', $1)"
    await act.stage.execute("orders", handled, event["event_id"])
    act.stage.resume("orders-worker")
    await act.death()


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
        await redis.xadd("holdfast:events:payments", {"event": "unreadable"})

        async def is_acknowledged() -> bool:
            [group] = await redis.xinfo_groups("holdfast:events:payments")
            return group["pending"] == 0

        await act.death()
        await act.stage.until(is_acknowledged, what="it is acknowledged")
    dead = await act.stage.fetch("orders", "DELETE FROM dead_event RETURNING id")
    assert len(dead) == 1, f"{len(dead)} dead events for one"


async def dead_letter_replayed(act: Act) -> None:
    """A payment's job is dead until an operator has it run again, on the worker's management port."""
    act.stage.pause(act.program)
    order = await act.buy()
    await act.stage.until_payment(order, "created")
    bury = """
        UPDATE job SET status = 'dead', attempt = 1, last_error = 'a test said so'
        FROM payment WHERE payload->>'payment_id' = payment.id::text AND order_id::text = $1 RETURNING job.id
    """
    [job] = await act.stage.fetch("payments", bury, order)
    act.stage.resume(act.program)
    await act.stage.replay(act.program, job["id"])
    await act.death()


async def dead_event_replayed(act: Act) -> None:
    """It told of a payment of no order; that is mended, and an operator asks for it, as often as that takes."""
    act.stage.disarm()
    await act.stage.provider(capture_delay_seconds=1.0)
    order = await act.buy()
    await act.stage.until_payment(order, "submitting", "submitted")
    [payment] = await act.stage.fetch("orders", "SELECT payment_id FROM orders WHERE id::text = $1", order)
    await act.stage.execute("orders", "UPDATE orders SET payment_id = uuidv7() WHERE id::text = $1", order)
    await act.stage.until(lambda: act.stage.fetch("orders", "SELECT FROM dead_event"), what="the event is dead")
    mend = "UPDATE orders SET payment_id = $2 WHERE id::text = $1"
    await act.stage.execute("orders", mend, order, payment["payment_id"])
    act.stage.arm(act.program, act.point)

    async def is_handled() -> bool:
        dead = await act.stage.fetch("orders", "SELECT replay_at FROM dead_event")
        if any(event["replay_at"] is None for event in dead):
            await act.stage.execute("orders", "UPDATE dead_event SET replay_at = now() WHERE replay_at IS NULL")
        return not dead

    await act.stage.until(is_handled, what="it is handled")
    await act.death()


async def endpoint_created(act: Act) -> None:
    """Once, and its only secret is what its client was told."""
    url, endpoint = await _create_endpoint(act)
    await act.death()
    query = "SELECT secret, id::text AS id FROM webhook_endpoint WHERE url = $1"
    [kept] = await act.stage.fetch("notifications", query, url)
    assert (kept["id"], kept["secret"]) == (endpoint.id, endpoint.secret)
    await _delete_endpoint(act, endpoint)


async def secret_rotated(act: Act) -> None:
    """Once: the secret before it still signs along."""
    _, endpoint = await _create_endpoint(act)
    path = f"webhook-endpoints/{endpoint.id}/rotate-secret"
    rotated = await act.stage.manage_webhooks("POST", path, HTTPStatus.OK, key=uuid4().hex)
    await act.death()
    query = "SELECT secret, old_secret FROM webhook_endpoint WHERE id::text = $1"
    [kept] = await act.stage.fetch("notifications", query, endpoint.id)
    assert kept["old_secret"] == endpoint.secret
    assert kept["secret"] == Endpoint.model_validate_json(rotated).secret
    await _delete_endpoint(act, endpoint)


async def endpoint_changed(act: Act) -> None:
    _, endpoint = await _create_endpoint(act)
    await act.stage.manage_webhooks(
        "PATCH", f"webhook-endpoints/{endpoint.id}", HTTPStatus.OK, body={"events": ["order.cancelled"]}
    )
    await act.death()
    query = "SELECT events FROM webhook_endpoint WHERE id::text = $1"
    assert [row["events"] for row in await act.stage.fetch("notifications", query, endpoint.id)] == [
        ["order.cancelled"]
    ]
    await _delete_endpoint(act, endpoint)


async def endpoint_deleted(act: Act) -> None:
    """Its secrets are gone."""
    _, endpoint = await _create_endpoint(act)
    await _delete_endpoint(act, endpoint)
    await act.death()
    query = "SELECT FROM webhook_endpoint WHERE id::text = $1 AND deleted_at IS NOT NULL AND secret IS NULL"
    assert await act.stage.fetch("notifications", query, endpoint.id)


async def redelivered(act: Act) -> None:
    """A customer that knew no secret has learned it, and gets what is dead, under the id that it had."""
    act.stage.disarm()
    url, endpoint = await _create_endpoint(act)
    order = await act.stage.client.buy(act.stage.purchase(client="globex"))
    act.orders[order] = "confirmed"

    async def is_refused() -> list[str]:
        query = "SELECT id::text AS id FROM webhook_delivery WHERE endpoint_id::text = $1 AND last_status IS NOT NULL"
        return [row["id"] for row in await act.stage.fetch("notifications", query, endpoint.id)]

    [delivery] = await act.stage.until(is_refused, what="the customer has refused it")
    await act.stage.execute(
        "notifications",
        f"""
        UPDATE webhook_delivery SET status = 'dead', settled_at = now() WHERE id = '{delivery}';
        DELETE FROM job WHERE payload->>'endpoint_id' = '{endpoint.id}'
        """,
    )
    await act.stage.client.give_secret(url.rpartition("/")[2], endpoint.secret)
    act.stage.arm(act.program, act.point)
    # 409: it was delivered before the client asked again.
    path = f"deliveries/{delivery}/redeliver"
    await act.stage.manage_webhooks("POST", path, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT)
    await act.death()
    query = "SELECT FROM webhook_delivery WHERE id::text = $1 AND status = 'delivered'"
    await act.stage.until(lambda: act.stage.fetch("notifications", query, delivery), what="it is delivered")
    await _delete_endpoint(act, endpoint)


async def _create_endpoint(act: Act) -> tuple[str, Endpoint]:
    """An endpoint of globex, which buys nothing else, with its URL."""
    url = f"{act.stage.platform.installation.url('customer_endpoint')}/webhooks/{uuid4().hex}"
    body = {"url": url, "events": ["order.placed"]}
    answer = await act.stage.manage_webhooks(
        "POST", "webhook-endpoints", HTTPStatus.CREATED, key=uuid4().hex, body=body
    )
    return url, Endpoint.model_validate_json(answer)


async def _delete_endpoint(act: Act, endpoint: Endpoint) -> None:
    """404: it was deleted before the client asked again."""
    path = f"webhook-endpoints/{endpoint.id}"
    await act.stage.manage_webhooks("DELETE", path, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND)


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
