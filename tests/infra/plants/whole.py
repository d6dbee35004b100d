"""What is stuck, put off, dead, or gone though it was acknowledged."""

import sqlite3
from contextlib import closing
from pathlib import Path

from planting import CANCELLED, CONFIRMED, DECLINED, REFUNDED, Planted

from plants.registry import violates, violates_only

STUCK = "nothing is stuck"
LEFT_OPEN = "no order, payment or mail is left open"
PUT_OFF = "nothing is put off for ever"
DEAD = "no dead letters"
HISTORY = "every acknowledged order is there, as it was answered"


@violates_only(STUCK)
async def a_job_that_nobody_takes(planted: Planted) -> str:
    await planted.job("ready", "now() - interval '1 hour'")
    return "orders request_payment"


@violates_only(STUCK)
async def a_job_that_runs_for_ever(planted: Planted) -> str:
    await planted.job("running", "now() - interval '1 hour'")
    return "orders request_payment"


@violates_only(STUCK)
async def an_event_that_is_not_published(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 1)
    update = "UPDATE outbox SET published_at = NULL WHERE event_id = $1"
    await planted.execute("orders", update, event)
    return event


@violates_only(STUCK)
async def an_event_that_is_held_for_longer_than_a_minute(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 2)
    await planted.execute(
        "notifications",
        "UPDATE inbox SET status = 'held', aggregate_id = 'o', aggregate_version = 2, event = '{}',"
        " received_at = now() - interval '61 seconds' WHERE event_id = $1",
        event,
    )
    return event


@violates_only(STUCK)
async def a_webhook_that_is_only_stored(planted: Planted) -> str:
    await planted.execute(
        "webhook-ingest",
        "INSERT INTO provider_event (provider, event_id, body, status, received_at)"
        " VALUES ('payment-provider', 'evt_stored', '', 'stored', now() - interval '1 hour')",
    )
    return "evt_stored"


@violates(STUCK)
async def a_delivery_that_nobody_makes(planted: Planted) -> str:
    webhook = await planted.delivery(CONFIRMED, 2)
    update = "UPDATE webhook_delivery SET status = 'pending', next_attempt_at = now() - interval '1 hour' WHERE id = $1"
    await planted.execute("notifications", update, webhook)
    return webhook


@violates(LEFT_OPEN)
async def an_order_that_stays_pending(planted: Planted) -> str:
    order = await planted.order(DECLINED)
    update = "UPDATE orders SET status = 'pending', updated_at = now() - interval '1 hour' WHERE id = $1"
    await planted.execute("orders", update, order)
    return order


@violates(LEFT_OPEN)
async def an_order_that_stays_cancelling(planted: Planted) -> str:
    order = await planted.order(REFUNDED)
    update = "UPDATE orders SET status = 'cancelling', updated_at = now() - interval '1 hour' WHERE id = $1"
    await planted.execute("orders", update, order)
    return order


@violates(LEFT_OPEN)
async def a_payment_that_stays_submitted(planted: Planted) -> str:
    payment = await planted.payment(DECLINED)
    update = "UPDATE payment SET status = 'submitted', created_at = now() - interval '1 hour' WHERE id = $1"
    await planted.execute("payments", update, payment)
    return payment


@violates_only(LEFT_OPEN)
async def a_mail_that_stays_pending(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 1)
    update = "UPDATE mail SET status = 'pending', created_at = now() - interval '1 hour' WHERE event_id = $1"
    await planted.execute("notifications", update, event)
    return event


@violates_only(PUT_OFF)
async def a_job_that_is_due_in_a_year(planted: Planted) -> str:
    await planted.job("ready", "now() + interval '1 year'")
    return "orders job request_payment"


@violates_only(PUT_OFF)
async def a_schedule_that_never_comes_again(planted: Planted) -> str:
    await planted.execute("payments", "UPDATE schedule SET next_at = now() + interval '1 year' WHERE name = 'sweep'")
    return "payments schedule sweep"


@violates(PUT_OFF)
async def a_delivery_that_is_due_in_a_hundred_years(planted: Planted) -> str:
    webhook = await planted.delivery(CONFIRMED, 2)
    planted.outside("customer-endpoint", "UPDATE attempt SET status = 500 WHERE webhook_id = ?", webhook)
    update = (
        "UPDATE webhook_delivery SET status = 'pending', next_attempt_at = now() + interval '100 years' WHERE id = $1"
    )
    await planted.execute("notifications", update, webhook)
    return webhook


@violates_only(DEAD)
async def a_dead_job(planted: Planted) -> str:
    await planted.job("dead")
    return "orders job"


@violates_only(DEAD)
async def a_dead_event(planted: Planted) -> str:
    insert = (
        "INSERT INTO dead_event (consumer, stream, entry_id, event, reason) VALUES ('orders', 's', '1-0', '{', 'x')"
    )
    await planted.execute("orders", insert)
    return "orders dead event"


@violates_only(DEAD)
async def a_dead_mail(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 1)
    await planted.execute("notifications", "UPDATE mail SET status = 'dead' WHERE event_id = $1", event)
    return event


@violates_only(DEAD)
async def a_dead_webhook(planted: Planted) -> str:
    insert = "INSERT INTO provider_event (provider, event_id, body, status) VALUES ('stripe', 'evt_dead', '', 'dead')"
    await planted.execute("webhook-ingest", insert)
    return "evt_dead"


@violates_only(HISTORY)
async def an_acknowledged_order_that_is_erased_everywhere(planted: Planted) -> str:
    order, payment = await planted.order(CANCELLED), await planted.payment(CANCELLED)
    rows = await planted.connections["orders"].fetch("SELECT event_id::text FROM outbox WHERE aggregate_id = $1", order)
    for (event,) in rows:
        planted.outside("mailbox", "DELETE FROM message WHERE message_id LIKE ?", f"<{event}@%")
    for service, statement, about in (
        ("orders", "DELETE FROM order_line WHERE order_id = $1", order),
        ("orders", "DELETE FROM outbox WHERE aggregate_id = $1", order),
        ("orders", "DELETE FROM idempotency_record WHERE key = $1", CANCELLED),
        ("orders", "DELETE FROM orders WHERE id = $1", order),
        ("notifications", "DELETE FROM mail WHERE order_id = $1", order),
        ("notifications", "DELETE FROM order_progress WHERE order_id = $1", order),
        ("payments", "DELETE FROM outbox WHERE aggregate_id = $1", payment),
    ):
        await planted.execute(service, statement, about)
    for table in ("charge_attempt", "refund"):
        await planted.connections["payments"].execute(f"DELETE FROM {table} WHERE payment_id = $1", payment)
    await planted.execute("payments", "DELETE FROM payment WHERE id = $1", payment)
    file = planted.files["payment-provider"]
    erase(file, payment)
    return order


@violates_only(HISTORY)
async def an_order_that_is_behind_what_was_answered(planted: Planted) -> str:
    order = await planted.order(CONFIRMED)
    answer = next(answer for answer in planted.answers if answer["order"]["id"] == order)
    planted.answers.append({"client": answer["client"], "order": {**answer["order"], "status": "cancelled"}})
    planted.write_history()
    return order


@violates_only(HISTORY)
async def an_order_that_was_answered_with_another_amount(planted: Planted) -> str:
    planted.answers[0]["order"]["amount"] += 1
    planted.write_history()
    return str(planted.answers[0]["order"]["id"])


def erase(file: Path, payment: str) -> None:
    """Whatever the provider has of a payment, if it has anything."""
    with closing(sqlite3.connect(file)) as database, database:
        for table in ("event", "transfer"):
            database.execute(f"DELETE FROM {table} WHERE reference = ?", (payment,))
