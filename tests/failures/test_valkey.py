"""Valkey may forget everything at any moment: what it held is published again, and nothing happens twice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from holdfast_local.chaos_faults import flush
from notifications.messages import ORDERS_STREAM
from redis.asyncio import Redis
from stage import Stage

RELAYS = ("orders-worker", "payments-worker", "webhook-ingest-worker")


async def republished(stage: Stage) -> int:
    return sum([(await stage.metrics(worker)).total("outbox_republished_total") for worker in RELAYS])


async def assert_published_again_and_nothing_twice(stage: Stage, *orders: str, before: int) -> None:
    async def is_noticed() -> bool:
        return await republished(stage) > before

    await stage.until(is_noticed, what="a relay notices that its stream was forgotten")
    await stage.until_status("confirmed", *orders)
    await stage.assert_sound()
    mails = await stage.client.read_message_ids()
    assert len(mails) == len(set(mails))
    for order in orders:
        assert await stage.charges(order) == ["captured"]


async def test_valkey_is_emptied_while_events_are_on_their_way(stage: Stage):
    """The consumer stands still, so that events are in the stream, and not yet read, when they are lost."""
    done = await stage.buy(3)
    await stage.until_status("confirmed", *done)
    before = await republished(stage)
    stage.pause("notifications-worker")
    orders = await stage.buy(5)
    await stage.until_status("confirmed", *orders)
    await flush(stage.platform.installation)
    stage.resume("notifications-worker")
    await assert_published_again_and_nothing_twice(stage, *done, *orders, before=before)


async def test_valkey_is_killed_and_starts_again_empty(stage: Stage):
    before = await republished(stage)
    orders = await stage.buy(5)
    stage.signal("valkey")
    orders += await stage.buy(5)  # it takes orders all the same: the limiter and the cache do without
    await stage.platform.until_ready("valkey")
    await assert_published_again_and_nothing_twice(stage, *orders, before=before)


async def test_valkey_is_emptied_again_and_again(stage: Stage):
    before = await republished(stage)
    orders: list[str] = []
    for _ in range(5):
        orders += await stage.buy(2)
        await flush(stage.platform.installation)
    await assert_published_again_and_nothing_twice(stage, *orders, before=before)


@asynccontextmanager
async def valkey(stage: Stage) -> AsyncIterator[Redis]:
    client = Redis.from_url(stage.platform.installation.valkey.dsn)
    try:
        yield client
    finally:
        await client.aclose()


async def test_valkey_is_killed_and_starts_again_from_an_older_snapshot(stage: Stage):
    """The stream it knows ends earlier, and the group has read less, than was once the case."""
    done = await stage.buy(3)
    await stage.until_status("confirmed", *done)
    before = await republished(stage)
    async with valkey(stage) as client:
        await client.save()
        folder = Path((await client.config_get("dir"))["dir"])
    try:
        stage.pause("notifications-worker")
        orders = await stage.buy(5)
        await stage.until_status("confirmed", *orders)
        await stage.kill("valkey")
        stage.resume("notifications-worker")
        await assert_published_again_and_nothing_twice(stage, *done, *orders, before=before)
    finally:
        (folder / "dump.rdb").unlink()


async def test_a_stream_is_trimmed_below_a_consumer_that_has_not_read_it(stage: Stage):
    before = await republished(stage)
    stage.pause("notifications-worker")
    orders = await stage.buy(5)
    await stage.until_status("confirmed", *orders)
    async with valkey(stage) as client:
        await client.xtrim(f"holdfast:{ORDERS_STREAM}", maxlen=1, approximate=False)
    stage.resume("notifications-worker")
    await assert_published_again_and_nothing_twice(stage, *orders, before=before)
    assert (await stage.metrics("notifications-worker")).total("messaging_missed_total") > 0
