"""Wrong orders, lines, kept answers and events."""

import json
from uuid import uuid4

from planting import CONFIRMED, DECLINED, REFUNDED, Planted

from plants.registry import violates, violates_only

ONE_ORDER = "one order per client and idempotency key"
KEPT_ANSWER = "a kept answer shows its order as it was placed"
LINES = "an order's lines add up to its amount"
NO_GAPS = "event versions have no gaps"
STATES = "events tell the states that were gone through"
ARRIVAL = "published events reach their consumer"
FACTS = "events carry the facts of what they are about"


@violates(ONE_ORDER)
async def a_second_order_for_a_key(planted: Planted) -> str:
    """Both so old that no answer needs to be kept: they offend as a pair only."""
    second = str(uuid4())
    await planted.execute(
        "orders",
        "INSERT INTO orders (id, client_id, idempotency_key, customer_email, status, amount, currency, payment_method)"
        " SELECT $1, client_id, idempotency_key, customer_email, 'cancelled', amount, currency, payment_method"
        " FROM orders WHERE idempotency_key = $2",
        second,
        CONFIRMED,
    )
    age = "UPDATE orders SET created_at = now() - make_interval(hours => $2) WHERE id = $1"
    await planted.execute(
        "orders",
        age,
        await planted.value(
            "orders", "SELECT min(id::text) FROM orders WHERE idempotency_key = $1 AND id <> $2", CONFIRMED, second
        ),
        31,
    )
    await planted.execute("orders", age, second, 30)
    return second


@violates_only(ONE_ORDER)
async def an_answer_that_names_no_order(planted: Planted) -> str:
    body = json.dumps({"id": "gone"}).encode()
    insert = "INSERT INTO idempotency_record VALUES ('acme', 'k9', '', 201, $1)"
    await planted.execute("orders", insert, body)
    return '{"id": "gone"}'


@violates_only(ONE_ORDER)
async def an_order_without_its_key_record(planted: Planted) -> str:
    await planted.execute("orders", "DELETE FROM idempotency_record WHERE key = $1", CONFIRMED)
    return await planted.order(CONFIRMED)


@violates_only(ONE_ORDER)
async def an_answer_that_names_another_order(planted: Planted) -> str:
    await planted.execute(
        "orders",
        "UPDATE idempotency_record SET body = (SELECT body FROM idempotency_record WHERE key = $2) WHERE key = $1",
        CONFIRMED,
        DECLINED,
    )
    return await planted.order(CONFIRMED)


async def rewrite_answer(planted: Planted, key: str, old: str, new: str) -> None:
    await planted.execute(
        "orders",
        "UPDATE idempotency_record SET body = convert_to(replace(convert_from(body, 'UTF8'), $2, $3), 'UTF8')"
        " WHERE key = $1 AND position(convert_to($2, 'UTF8') IN body) > 0",
        key,
        old,
        new,
    )


@violates_only(KEPT_ANSWER)
async def a_kept_answer_over_another_amount(planted: Planted) -> str:
    await rewrite_answer(planted, CONFIRMED, '"amount":', '"amount":1')
    return await planted.order(CONFIRMED)


@violates_only(KEPT_ANSWER)
async def a_line_of_another_product(planted: Planted) -> str:
    product = "UPDATE order_line SET product_id = 'anchor' WHERE order_id = $1"
    await planted.execute("orders", product, await planted.order(CONFIRMED))
    planted.answers.clear()
    planted.write_history()
    return await planted.order(CONFIRMED)


@violates(LINES)
async def a_line_of_another_quantity(planted: Planted) -> str:
    quantity = "UPDATE order_line SET quantity = quantity + 1 WHERE order_id = $1"
    await planted.execute("orders", quantity, await planted.order(CONFIRMED))
    return await planted.order(CONFIRMED)


@violates(LINES)
async def an_order_without_lines(planted: Planted) -> str:
    await planted.execute("orders", "DELETE FROM order_line WHERE order_id = $1", await planted.order(CONFIRMED))
    return await planted.order(CONFIRMED)


@violates_only(LINES)
async def lines_that_were_wrong_from_the_start(planted: Planted) -> str:
    order = await planted.order(CONFIRMED)
    await planted.execute("orders", "UPDATE order_line SET unit_price = 1 WHERE order_id = $1", order)
    price = planted.answers[[a["key"] for a in planted.answers].index(CONFIRMED)]["order"]["lines"][0]["unit_price"]
    await rewrite_answer(planted, CONFIRMED, f'"unit_price":{price}', '"unit_price":1')
    planted.answers.clear()
    planted.write_history()
    return order


@violates(NO_GAPS)
async def a_version_that_was_skipped(planted: Planted) -> str:
    await planted.execute("orders", "DELETE FROM outbox WHERE event_id = $1", await planted.event(REFUNDED, 2))
    return await planted.order(REFUNDED)


@violates_only(NO_GAPS)
async def a_last_event_that_was_never_written(planted: Planted) -> str:
    payment = await planted.payment(CONFIRMED)
    await planted.execute("payments", "DELETE FROM outbox WHERE aggregate_id = $1", payment)
    return payment


@violates_only(NO_GAPS)
async def an_event_of_an_order_that_was_rolled_back(planted: Planted) -> str:
    ghost = str(uuid4())
    await planted.execute(
        "payments",
        "INSERT INTO outbox (seq, stream, type, schema, aggregate_id, aggregate_version, payload, published_at)"
        " OVERRIDING SYSTEM VALUE"
        " VALUES (999, 'events:payments', 'payment.failed', 1, $1, 1, '{}', now() - interval '1 hour')",
        ghost,
    )
    return ghost


@violates_only(NO_GAPS)
async def a_published_webhook_without_an_event(planted: Planted) -> str:
    row = str(uuid4())
    await planted.execute(
        "webhook-ingest",
        "INSERT INTO provider_event (id, provider, event_id, body, status)"
        " VALUES ($1, 'payment-provider', 'evt_x', '', 'published')",
        row,
    )
    return row


@violates(STATES)
async def a_confirmed_order_whose_last_event_says_cancelled(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 2)
    await planted.execute("orders", "UPDATE outbox SET type = 'order.cancelled' WHERE event_id = $1", event)
    return await planted.order(CONFIRMED)


@violates_only(STATES)
async def a_captured_payment_whose_event_says_failed(planted: Planted) -> str:
    payment = await planted.payment(CONFIRMED)
    await planted.execute("payments", "UPDATE outbox SET type = 'payment.failed' WHERE aggregate_id = $1", payment)
    return payment


@violates_only(STATES)
async def an_event_that_carries_another_status(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 2)
    set_ = "UPDATE outbox SET payload = jsonb_set(payload, '{status}', '\"cancelled\"') WHERE event_id = $1"
    await planted.execute("orders", set_, event)
    return event


@violates_only(ARRIVAL)
async def an_event_that_its_consumer_never_got(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 2)
    await planted.execute("notifications", "DELETE FROM inbox WHERE event_id = $1", event)
    update = "UPDATE outbox SET published_at = now() - interval '1 hour' WHERE event_id = $1"
    await planted.execute("orders", update, event)
    return event


@violates(FACTS)
async def an_order_event_over_another_amount(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 2)
    await planted.execute(
        "orders", "UPDATE outbox SET payload = jsonb_set(payload, '{amount}', '1') WHERE event_id = $1", event
    )
    return event


@violates_only(FACTS)
async def a_payment_event_over_another_amount(planted: Planted) -> str:
    payment = await planted.payment(CONFIRMED)
    await planted.execute(
        "payments", "UPDATE outbox SET payload = jsonb_set(payload, '{amount}', '1') WHERE aggregate_id = $1", payment
    )
    return str(await planted.value("payments", "SELECT event_id FROM outbox WHERE aggregate_id = $1", payment))


@violates_only(FACTS)
async def a_provider_event_over_another_amount(planted: Planted) -> str:
    payment = await planted.payment(CONFIRMED)
    await planted.execute(
        "webhook-ingest",
        "UPDATE outbox SET payload = jsonb_set(payload, '{amount}', '1') WHERE payload ->> 'reference' = $1",
        payment,
    )
    query = "SELECT event_id FROM outbox WHERE payload ->> 'reference' = $1"
    return str(await planted.value("webhook-ingest", query, payment))


@violates_only(FACTS)
async def another_address_on_the_order(planted: Planted) -> str:
    order = await planted.order(CONFIRMED)
    await planted.execute("orders", "UPDATE orders SET customer_email = 'eve@example.org' WHERE id = $1", order)
    return await planted.event(CONFIRMED, 1)
