"""An event that cannot be handled costs its own tries alone, and neither an outage nor a lock costs any."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.events.delivery import consumed
from chassis.events.inbox import Received
from chassis.pooling import Database, Session
from process_settings import to_environment
from redis.asyncio import Redis
from sqlalchemy import text
from test_messaging import OrderPlaced, all_is_acknowledged, consuming, dead, effects, has_effects, see, seen, send
from waiting import eventually

__all__ = ["seen"]

pytestmark = pytest.mark.timeout(40)


@pytest.fixture
async def impatient(database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    """A pool whose statements wait for a lock for a moment only."""
    pool = Database(
        database_settings.model_copy(update={"lock_timeout": 0.02}), pool="test", application_name="impatient"
    )
    yield pool
    await pool.close()


@pytest.mark.timeout(90)
async def test_an_event_that_ends_every_process_is_buried_alone_and_its_neighbours_are_handled(
    redis: Redis,
    redis_settings: RedisSettings,
    database_settings: DatabaseSettings,
    seen: asyncpg.Connection,
) -> None:
    for number in range(50):
        if number == 20:
            await send(redis, "poison")
        await send(redis, str(number))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name("consumer_process.py"),
        env=to_environment(database_settings, redis_settings),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        told, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert await dead(seen) == ["it was delivered 4 times, and no delivery ended"]
    assert sorted(map(int, await effects(seen))) == list(range(50))
    assert int(told.split()[-1]) == 4
    await all_is_acknowledged(redis)


async def test_an_event_behind_a_failing_one_of_its_aggregate_has_all_its_tries(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    """The first call of all handles both events in one transaction, which fails. This call counts for no event."""
    tries: list[int] = []
    counts = {outcome: consumed.labels("orders", "order.placed", outcome) for outcome in ("failed", "dead", "handled")}
    before = {outcome: count._value.get() for outcome, count in counts.items()}

    async def fail(session: Session, received: Received[OrderPlaced]) -> None:
        tries.append(received.aggregate_version)
        if received.aggregate_version == 1 or tries.count(2) < 4:
            raise LookupError("not yet")
        await see(session, received)

    for version in (1, 2):
        await send(redis, "a", version)
    async with consuming(redis, database, {OrderPlaced: fail}, max_deliveries=4):
        await has_effects(seen, "a2")
        await all_is_acknowledged(redis)
    assert tries == [1, *[1, 1, 1, 1], *[2, 2, 2, 2]]
    counted = {outcome: count._value.get() - before[outcome] for outcome, count in counts.items()}
    assert counted == {"failed": 3 + 3, "dead": 1, "handled": 1}
    assert await dead(seen) == ["LookupError: not yet"]


async def test_an_event_that_comes_after_a_failing_one_of_its_aggregate_waits_for_it(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    """Though it is read later, with other events, which do not wait."""
    may_pass = asyncio.Event()

    async def fail_first(session: Session, received: Received[OrderPlaced]) -> None:
        if (received.aggregate_id, received.aggregate_version) == ("a", 1) and not may_pass.is_set():
            raise LookupError("not yet")
        await see(session, received)

    async with consuming(redis, database, {OrderPlaced: fail_first}, max_deliveries=1000):
        await send(redis, "a", 1)
        await send(redis, "b", 1)
        await has_effects(seen, "b1")
        await send(redis, "a", 2)
        await send(redis, "b", 2)
        await has_effects(seen, "b1", "b2")
        may_pass.set()
        await has_effects(seen, "b1", "b2", "a1", "a2")
        await all_is_acknowledged(redis)


async def test_a_lock_that_is_held_for_long_costs_no_event_a_try(
    redis: Redis, impatient: Database, seen: asyncpg.Connection
) -> None:
    for number in range(3):
        await send(redis, str(number))
    postponed = consumed.labels("orders", "order.placed", "postponed")
    before = postponed._value.get()

    async def each_was_tried_often() -> bool:
        return postponed._value.get() >= before + 3 * 5

    async with consuming(redis, impatient, {OrderPlaced: see}, max_deliveries=3):
        async with seen.transaction():
            await seen.execute("LOCK TABLE seen")
            await eventually(each_was_tried_often)
        await all_is_acknowledged(redis)
    assert sorted(await effects(seen)) == ["01", "11", "21"]
    assert await dead(seen) == []


async def test_an_event_that_ends_its_connection_each_time_holds_up_no_other(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    """It looks like an outage, and is none: the database answers."""

    async def cut_off(session: Session, received: Received[OrderPlaced]) -> None:
        if received.aggregate_id == "cut":
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        await see(session, received)

    await send(redis, "cut")
    await send(redis, "a")
    async with consuming(redis, database, {OrderPlaced: cut_off}, max_deliveries=3):
        await has_effects(seen, "a1")
        await send(redis, "b")
        await has_effects(seen, "a1", "b1")
    assert await dead(seen) == []


async def test_a_dead_event_whose_replay_meets_a_lock_is_replayed_later(
    redis: Redis, impatient: Database, seen: asyncpg.Connection
) -> None:
    await send(redis, "a")
    [(_, fields)] = await redis.xrange("test:orders")
    await redis.delete("test:orders")
    await seen.execute(
        "INSERT INTO dead_event (consumer, stream, entry_id, event, reason, replay_at)"
        " VALUES ('mail', 'orders', '1-0', $1, 'lost', now())",
        fields[b"event"].decode(),
    )
    postponed = consumed.labels("orders", "order.placed", "postponed")
    before = postponed._value.get()

    async def was_tried_twice() -> bool:
        return postponed._value.get() >= before + 2

    async with consuming(redis, impatient, {OrderPlaced: see}, claim_after=0.05):
        async with seen.transaction():
            await seen.execute("LOCK TABLE seen")
            await eventually(was_tried_twice)
        await has_effects(seen, "a1")

        async def is_dead_no_longer() -> bool:
            return await dead(seen) == []

        await eventually(is_dead_no_longer)


async def test_a_consumer_that_stops_while_a_table_is_locked_gives_the_rest_of_its_batch_up(
    redis: Redis, impatient: Database, seen: asyncpg.Connection
) -> None:
    for number in range(10):
        await send(redis, str(number))
    tried: list[Any] = []

    async def try_once(session: Session, received: Received[OrderPlaced]) -> None:
        tried.append(received.aggregate_id)
        await see(session, received)

    async with seen.transaction():
        await seen.execute("LOCK TABLE seen")
        async with consuming(redis, impatient, {OrderPlaced: try_once}):
            await eventually(lambda: asyncio.sleep(0, bool(tried)))
    assert len(tried) < 10
    async with consuming(redis, impatient, {OrderPlaced: see}, name="next", claim_after=0.05):
        await all_is_acknowledged(redis)
    assert len(await effects(seen)) == 10
