"""PostgreSQL is killed: what was answered is kept, every process sits it out, and all goes on by itself."""

import asyncio

from stage import Stage


async def test_postgres_is_killed_under_load_and_no_answered_order_is_lost(stage: Stage):
    buying = asyncio.gather(*(stage.buy(5) for _ in range(4)))

    async def are_some_placed() -> bool:
        [row] = await stage.fetch("orders", "SELECT count(*) FROM orders")
        return row["count"] >= 5

    await stage.until(are_some_placed, what="five orders are placed")
    await stage.kill("postgres")
    orders = [order for placed in await buying for order in placed]
    assert len(set(orders)) == 20
    await stage.until_status("confirmed", *orders)
    await stage.assert_sound()


async def test_postgres_is_killed_while_the_provider_has_a_charge(stage: Stage):
    """The answer to the charge finds no database to be written to."""
    await stage.provider(latency_seconds=1.5, webhook_drop_rate=1.0)
    [order] = await stage.buy()
    await stage.until_job("payments", "charge_payment")
    await stage.kill("postgres")
    await stage.provider()
    await stage.until_status("confirmed", order)
    assert await stage.charges(order) == ["captured"]
    await stage.assert_sound()


async def test_postgres_is_killed_three_times_in_a_row(stage: Stage):
    orders: list[str] = []
    for _ in range(3):
        orders += await stage.buy(3)
        await stage.kill("postgres")
    await stage.until_status("confirmed", *orders)
    await stage.assert_sound()
