"""Wrong webhooks."""

from uuid import uuid4

from planting import CONFIRMED, DECLINED, Planted

from plants.registry import violates, violates_only

WEBHOOK_COPIES = "a webhook is accepted again only after an interruption"
LISTENERS = "each order event has one delivery per endpoint that listens"
DELIVERED = "a webhook counts as delivered where its customer has it"
WEBHOOK_ORDER = "an order's webhooks first arrive in the order of its events"
WEBHOOK_WORDS = "a webhook says what its event says"


@violates_only(WEBHOOK_COPIES)
async def a_webhook_that_was_accepted_twice(planted: Planted) -> str:
    webhook = await planted.delivery(CONFIRMED, 1)
    planted.arrive(webhook)
    return webhook


@violates(LISTENERS)
async def an_event_that_a_listener_was_not_told_of(planted: Planted) -> str:
    webhook, event = await planted.delivery(CONFIRMED, 2), await planted.event(CONFIRMED, 2)
    await planted.execute("notifications", "DELETE FROM webhook_delivery WHERE id = $1", webhook)
    return event


@violates_only(LISTENERS)
async def an_event_that_a_listener_never_heard_of(planted: Planted) -> str:
    webhook = await planted.delivery(CONFIRMED, 2)
    planted.outside("customer-endpoint", "DELETE FROM attempt WHERE webhook_id = ?", webhook)
    return await an_event_that_a_listener_was_not_told_of(planted)


@violates_only(DELIVERED)
async def a_delivery_that_never_arrived(planted: Planted) -> str:
    webhook = await planted.delivery(CONFIRMED, 2)
    planted.outside("customer-endpoint", "DELETE FROM attempt WHERE webhook_id = ?", webhook)
    return webhook


@violates_only(DELIVERED)
async def a_delivery_that_was_only_refused(planted: Planted) -> str:
    webhook = await planted.delivery(CONFIRMED, 2)
    planted.outside("customer-endpoint", "UPDATE attempt SET status = 500 WHERE webhook_id = ?", webhook)
    return webhook


@violates_only(DELIVERED)
async def a_delivery_that_did_not_verify(planted: Planted) -> str:
    webhook = await planted.delivery(CONFIRMED, 2)
    planted.outside("customer-endpoint", "UPDATE attempt SET reason = 'forged' WHERE webhook_id = ?", webhook)
    return webhook


@violates_only(DELIVERED)
async def an_accepted_delivery_that_is_dead(planted: Planted) -> str:
    webhook = await planted.delivery(CONFIRMED, 2)
    await planted.execute("notifications", "UPDATE webhook_delivery SET status = 'dead' WHERE id = $1", webhook)
    return webhook


@violates_only(DELIVERED)
async def an_event_under_a_second_webhook_id(planted: Planted) -> str:
    second = str(uuid4())
    planted.arrive(await planted.delivery(CONFIRMED, 2), webhook_id=second)
    return second


@violates_only(WEBHOOK_ORDER)
async def webhooks_in_reverse_order(planted: Planted) -> str:
    webhooks = [await planted.delivery(CONFIRMED, 1), await planted.delivery(CONFIRMED, 2)]
    first, second = [
        planted.outside("customer-endpoint", "SELECT id FROM attempt WHERE webhook_id = ?", w) for w in webhooks
    ]
    for old, new in ((first, -1), (second, first), (-1, second)):
        planted.outside("customer-endpoint", "UPDATE attempt SET id = ? WHERE id = ?", new, old)
    return await planted.order(CONFIRMED)


@violates_only(WEBHOOK_WORDS)
async def a_webhook_that_arrived_with_another_body(planted: Planted) -> str:
    webhook = await planted.delivery(CONFIRMED, 2)
    planted.outside("customer-endpoint", "UPDATE attempt SET body = '{}' WHERE webhook_id = ?", webhook)
    return webhook


async def rewrite_webhook(planted: Planted, old: str, new: str) -> str:
    webhook = await planted.delivery(CONFIRMED, 2)
    update = "UPDATE webhook_delivery SET body = replace(body, $2, $3) WHERE id = $1 AND position($2 IN body) > 0"
    await planted.execute("notifications", update, webhook, old, new)
    update = "UPDATE attempt SET body = replace(body, ?, ?) WHERE webhook_id = ?"
    planted.outside("customer-endpoint", update, old, new, webhook)
    return webhook


@violates_only(WEBHOOK_WORDS)
async def a_delivery_over_another_amount(planted: Planted) -> str:
    return await rewrite_webhook(planted, '"amount":', '"amount":1')


@violates_only(WEBHOOK_WORDS)
async def a_delivery_about_another_order(planted: Planted) -> str:
    return await rewrite_webhook(planted, await planted.order(CONFIRMED), await planted.order(DECLINED))


@violates_only(WEBHOOK_WORDS)
async def a_delivery_about_another_event(planted: Planted) -> str:
    return await rewrite_webhook(planted, "order.confirmed", "order.cancelled")
