"""Redis is not trusted to remember: whatever it forgets is published again, and nothing is lost or done twice.

A real Valkey that is emptied, set back and failed over, a relay, and a consumer with its inbox.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings, OutboxSettings
from chassis.events.consumer import Consumer
from chassis.events.group import missed
from chassis.events.inbox import Received
from chassis.events.outbox import Event, publish
from chassis.events.relay import Relay, is_held_back, republished
from chassis.pooling import Database, Session
from chassis.pooling.wakeup import Wakeups
from forgetful_redis import ForgetfulRedis
from sqlalchemy import text
from waiting import eventually

QUICK = OutboxSettings(batch=5, poll_interval=0.05)


class OrderPlaced(Event, type="order.placed"):
    pass


class Story:
    """Events 1, 2, 3 … of one aggregate, and what became of them."""

    def __init__(
        self, redis: ForgetfulRedis, database: Database, settings: DatabaseSettings, seen: asyncpg.Connection
    ) -> None:
        self.redis = redis
        self._database = database
        self._settings = settings
        self._seen = seen
        self._placed = 0

    async def place(self, number: int = 1) -> None:
        for _ in range(number):
            self._placed += 1
            async with self._database.transaction() as session:
                await publish(session, OrderPlaced(), stream="orders", aggregate_id="a", aggregate_version=self._placed)

    @asynccontextmanager
    async def relaying(self, settings: OutboxSettings = QUICK) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        async with Wakeups(self._settings, application_name="test") as wakeups:
            task = asyncio.create_task(
                Relay(self._settings, self.redis.client, settings, service="orders", wakeups=wakeups).run(stopping)
            )
            yield
            stopping.set()
            await task

    @asynccontextmanager
    async def consuming(self, name: str = "one", **options: Any) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        consumer = Consumer(
            self.redis.client,
            self._database,
            QUICK,
            group="mail",
            name=name,
            streams=["orders"],
            handlers={OrderPlaced: _see},
            random=lambda: 0.01,
            **options,
        )
        task = asyncio.create_task(consumer.run(stopping))
        yield
        stopping.set()
        await task

    async def all_published(self) -> None:
        async def look() -> bool:
            query = "SELECT count(*) = 0 FROM outbox WHERE published_at IS NULL"
            return bool(await self._seen.fetchval(query))

        await eventually(look)

    async def all_seen(self) -> None:
        """Each event had its effect, once, and all of them are in Redis again."""

        async def look() -> bool:
            return len(await self._effects()) >= self._placed

        await eventually(look)
        assert sorted(await self._effects()) == list(range(1, self._placed + 1))

    async def _effects(self) -> list[int]:
        return [row["version"] for row in await self._seen.fetch("SELECT version FROM seen")]


async def _see(session: Session, received: Received[OrderPlaced]) -> None:
    await session.execute(text("INSERT INTO seen VALUES (:version)"), {"version": received.aggregate_version})


@pytest.fixture
async def story(
    tmp_path: Path, database: Database, database_settings: DatabaseSettings, postgres: RealServer
) -> AsyncIterator[Story]:
    connection = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    await connection.execute("CREATE TABLE seen (version integer)")
    await connection.execute("GRANT SELECT, INSERT ON seen TO PUBLIC")
    async with ForgetfulRedis(tmp_path).running() as redis:
        yield Story(redis, database, database_settings, connection)
    await connection.close()


@pytest.mark.parametrize("how", ["emptied", "started again without its memory", "set back to an older snapshot"])
async def test_what_redis_forgets_before_it_is_read_is_published_again(story: Story, how: str) -> None:
    async with story.relaying():
        async with story.consuming():
            await story.place(3)
            await story.all_seen()
        if how == "set back to an older snapshot":
            await story.redis.save()
        await story.place(9)  # nobody reads them yet
        await story.all_published()
        if how == "emptied":
            await story.redis.client.flushall()
        else:
            await story.redis.crash()
        async with story.consuming():
            await story.all_seen()
            await story.place(1)
            await story.all_seen()


async def test_writes_that_a_failover_loses_are_published_again(story: Story) -> None:
    async with story.relaying():
        async with story.consuming():
            await story.place(3)
            await story.all_seen()
        await story.redis.replicate()
        await story.place(9)
        await story.all_published()
        await story.redis.fail_over()
        async with story.consuming():
            await story.all_seen()
            await story.place(1)
            await story.all_seen()


@pytest.mark.parametrize("left", [0, 2])
async def test_entries_trimmed_before_a_group_read_them_are_noticed_once_and_published_again(
    story: Story, left: int
) -> None:
    before, noticed = republished.labels("orders")._value.get(), missed.labels("orders", "mail")._value.get()
    async with story.relaying():
        async with story.consuming():
            await story.place(3)
            await story.all_seen()
        await story.place(9)
        await story.all_published()
        await story.redis.client.xtrim("test:orders", maxlen=left, approximate=False)
        async with story.consuming():
            await story.all_seen()
            await story.place(1)
            await story.all_seen()
    assert missed.labels("orders", "mail")._value.get() == noticed + 9 - left
    assert republished.labels("orders")._value.get() == before + 12


@pytest.mark.parametrize("taken_by", ["itself", "another consumer"])
async def test_entries_trimmed_after_a_consumer_read_them_and_before_it_acknowledged_are_published_again(
    story: Story, taken_by: str
) -> None:
    async with story.relaying():
        await story.place(9)
        await story.all_published()
        client = story.redis.client
        await client.xgroup_create("test:orders", "mail", id="0", entries_read=0)
        await client.xreadgroup("mail", "one" if taken_by == "itself" else "dead", {"test:orders": ">"}, count=6)
        await client.xtrim("test:orders", maxlen=3, approximate=False)
        async with story.consuming("one", claim_after=600 if taken_by == "itself" else 0.05):
            await story.all_seen()
    assert (await client.xinfo_groups("test:orders"))[0]["pending"] == 0


async def test_a_new_group_of_a_trimmed_stream_is_sent_what_is_still_kept(story: Story) -> None:
    async with story.relaying():
        await story.place(9)
        await story.all_published()
        await story.redis.client.xtrim("test:orders", maxlen=2, approximate=False)
        async with story.consuming():
            await story.all_seen()


async def test_events_wait_in_the_outbox_while_unread_ones_fill_the_stream(story: Story) -> None:
    client = story.redis.client
    await client.config_set("stream-node-max-entries", 1)  # else "approximately" keeps a hundred
    async with story.relaying(OutboxSettings(batch=5, poll_interval=0.05, stream_max_length=7)):
        await client.xgroup_create("test:orders", "mail", id="0", mkstream=True, entries_read=0)
        await story.place(20)

        async def is_full() -> bool:
            return is_held_back.labels("orders")._value.get() == 1 and await client.xlen("test:orders") == 7

        await eventually(is_full)
        before = missed.labels("orders", "mail")._value.get()
        async with story.consuming():
            await story.all_seen()
            await story.all_published()
    assert missed.labels("orders", "mail")._value.get() == before


async def test_a_relay_that_dies_while_it_repeats_is_followed_where_it_stopped(story: Story) -> None:
    await story.place(12)
    async with story.relaying():
        await story.all_published()
    await story.redis.client.flushall()
    async with story.relaying(OutboxSettings(batch=1, poll_interval=0.05)):

        async def has_begun() -> bool:
            return await story.redis.client.xlen("test:orders") > 2

        await eventually(has_begun)
    async with story.relaying(), story.consuming():
        await story.all_seen()
