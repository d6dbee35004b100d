"""The client never hears of its order, and asks again under the same key: one order, and the first answer's bytes."""

import asyncio

import aiohttp
import pytest
from holdfast_local.demo_client import OrderSeen
from stage import Stage


async def orders_under(stage: Stage, key: str) -> list[str]:
    rows = await stage.fetch("orders", "SELECT id::text AS id FROM orders WHERE idempotency_key = $1", key)
    return [row["id"] for row in rows]


async def test_the_api_is_killed_between_its_commit_and_its_answer_and_the_repeated_key_finds_the_order(stage: Stage):
    """PostgreSQL has committed, the API waits to hear so, and dies: no earlier and no later."""
    purchase = stage.purchase()
    await stage.client.read_catalogue("acme")  # so that it comes from the cache, and the next COMMIT is the order's
    stage.proxy.arm()
    asking = asyncio.create_task(stage.client.place_purchase(purchase))
    await asyncio.wait_for(stage.proxy.committed.wait(), 10)
    [committed] = await orders_under(stage, purchase.key)
    assert not asking.done()
    stage.signal("orders-api")
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await asking
    stage.proxy.sever()

    assert await stage.client.buy(purchase) == committed
    assert await orders_under(stage, purchase.key) == [committed]
    await stage.until_status("confirmed", committed)
    assert await stage.charges(committed) == ["captured"]
    await stage.assert_sound()


async def test_the_database_connection_is_lost_with_the_answer_to_a_commit_and_the_client_asks_again(stage: Stage):
    """The API cannot know what became of its transaction: it says so with a 5xx, never with a refusal."""
    purchase = stage.purchase()
    await stage.client.read_catalogue("acme")
    stage.proxy.arm()
    asking = asyncio.create_task(stage.client.place_purchase(purchase))
    await asyncio.wait_for(stage.proxy.committed.wait(), 10)
    stage.proxy.sever()
    answer = await asking
    assert answer.status >= 500

    [committed] = await orders_under(stage, purchase.key)
    assert await stage.client.buy(purchase) == committed
    await stage.until_status("confirmed", committed)
    await stage.assert_sound()


async def test_repeats_of_one_key_while_the_first_request_is_under_way_make_one_order(stage: Stage):
    """All that are answered 201 are answered with the same bytes; the others are told to wait."""
    purchase = stage.purchase()
    answers = await asyncio.gather(*(stage.client.place_purchase(purchase) for _ in range(8)))
    assert {answer.status for answer in answers} <= {201, 409}
    [body] = {answer.body for answer in answers if answer.status == 201}
    order = OrderSeen.model_validate_json(body).id
    assert (await stage.client.place_purchase(purchase)).body == body
    assert await orders_under(stage, purchase.key) == [order]
    await stage.until_status("confirmed", order)
    await stage.assert_sound()
