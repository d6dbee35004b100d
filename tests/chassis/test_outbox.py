import asyncio
import itertools
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from asyncpg import UniqueViolationError
from backends import RealServer
from captured_logs import captured_logs
from chassis.config.settings import DatabaseSettings, OutboxSettings, RedisSettings
from chassis.events import relay
from chassis.events.outbox import Event, publish
from chassis.events.relay import Relay, is_leader, lag_seconds, unpublished
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from chassis.telemetry import span
from process_settings import to_environment
from redis.asyncio import Redis
from sqlalchemy import text
from waiting import eventually

QUICK = OutboxSettings(batch=3, poll_interval=0.05)


class OrderPlaced(Event, type="order.placed"):
    amount: int = 1


class CardDeclined(Exception):
    pass


@pytest.fixture
async def wakeups(database_settings: DatabaseSettings) -> AsyncIterator[Wakeups]:
    async with Wakeups(database_settings, application_name="test") as wakeups:
        yield wakeups


async def place(database: Database, aggregate: str, version: int = 1) -> None:
    async with database.transaction() as session:
        await publish(session, OrderPlaced(), stream="orders", aggregate_id=aggregate, aggregate_version=version)


async def entries(redis: Redis) -> list[dict[str, Any]]:
    """The events in the stream."""
    answer: Any = await redis.xrange("test:orders")
    return [orjson.loads(fields[b"event"]) for _, fields in answer]


async def stream(redis: Redis) -> list[tuple[str, int]]:
    """(aggregate, version) of every entry."""
    return [(event["aggregate_id"], event["aggregate_version"]) for event in await entries(redis)]


async def streamed(redis: Redis, *expected: tuple[str, int]) -> None:
    async def look() -> bool:
        return await stream(redis) == list(expected)

    try:
        await eventually(look, seconds=10)
    finally:
        assert await stream(redis) == list(expected)


@asynccontextmanager
async def relaying(
    settings: DatabaseSettings, redis: Redis, wakeups: Wakeups, outbox: OutboxSettings = QUICK
) -> AsyncIterator[asyncio.Task[None]]:
    stopping = asyncio.Event()
    publisher = Relay(settings, redis, outbox, service="orders", wakeups=wakeups)
    task = asyncio.create_task(publisher.run(stopping))
    try:
        yield task
    finally:
        stopping.set()
        await asyncio.wait([task])


async def test_an_event_goes_out_if_and_only_if_its_transaction_commits(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            await publish(session, OrderPlaced(), stream="orders", aggregate_id="lost", aggregate_version=1)
            raise CardDeclined

    async with relaying(database_settings, redis, wakeups):
        with pytest.raises(CardDeclined):
            await fail()
        await place(database, "kept")
        await streamed(redis, ("kept", 1))


async def test_an_event_goes_out_in_the_envelope_of_the_protocol(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    with span("request", traceparent=f"00-{trace_id}-00f067aa0ba902b7-01"):
        await place(database, "a")
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1))
    (event,) = await entries(redis)
    assert UUID(event.pop("event_id")).version == 7
    assert event.pop("occurred_at").endswith("+00:00")
    assert event.pop("traceparent").split("-")[1] == trace_id
    assert event == {
        "type": "order.placed",
        "schema": 1,
        "aggregate_id": "a",
        "aggregate_version": 1,
        "payload": {"amount": 1},
    }


async def test_a_version_of_an_aggregate_is_published_once(database: Database) -> None:
    await place(database, "a", 1)
    with pytest.raises(UniqueViolationError):
        await place(database, "a", 1)


async def test_batches_keep_the_order_in_which_events_were_written(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    for version in range(1, 9):
        await place(database, "a", version)
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, *(("a", version) for version in range(1, 9)))


@pytest.mark.parametrize("forget", ["emptied", "emptied and written to", "older snapshot"])
async def test_whatever_redis_forgets_is_published_again(
    forget: str, database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    await place(database, "a", 1)
    await place(database, "a", 2)
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1), ("a", 2))
    foreign = [] if forget == "emptied" else [("z", 1)]
    if forget == "older snapshot":
        await redis.delete("test:orders")  # the epoch is still there, and the stream ends before what was published
    else:
        await redis.flushall()
    for aggregate, version in foreign:
        event = orjson.dumps({"aggregate_id": aggregate, "aggregate_version": version})
        await redis.xadd("test:orders", {"event": event}, id="1-1" if forget == "older snapshot" else "*")
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, *foreign, ("a", 1), ("a", 2))  # without a new event: nobody else would ask
        await place(database, "a", 3)
        await streamed(redis, *foreign, ("a", 1), ("a", 2), ("a", 3))


async def test_a_crash_between_publishing_and_marking_repeats_events_and_loses_none(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    await place(database, "a", 1)
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1))
    async with database.transaction() as session:  # as if the mark had not been committed
        await session.execute(text("UPDATE outbox SET published_at = NULL"))
        await session.execute(text("UPDATE stream_position SET last_id = '0-0'"))
    await place(database, "a", 2)
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1), ("a", 1), ("a", 2))


async def test_events_wait_while_redis_is_away(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    async with relaying(database_settings, redis, wakeups) as task:
        await place(database, "a", 1)
        await streamed(redis, ("a", 1))
        await redis.config_set("maxmemory", "1")  # every write is refused
        try:
            await place(database, "a", 2)
            await redis.client_kill_filter(_type="normal", skipme=True)
        finally:
            await redis.config_set("maxmemory", "0")
        await streamed(redis, ("a", 1), ("a", 2))
        assert not task.done()


async def test_events_wait_while_the_database_takes_no_writes(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups, postgres: RealServer
) -> None:
    await place(database, "a", 1)
    refusals = f"ALTER DATABASE {database_settings.name} SET default_transaction_read_only = on"
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(refusals)
    try:
        with captured_logs() as logs:
            async with relaying(database_settings, redis, wakeups) as task:

                async def has_failed_twice() -> bool:
                    return len(logs.of("outbox_leadership_lost")) > 1

                await eventually(has_failed_twice)
                assert logs.of("outbox_leadership_lost")[0]["error"] == "ReadOnlySQLTransactionError"
                assert not task.done()
                await admin.execute(refusals.replace("SET", "RESET").replace(" = on", ""))
                await streamed(redis, ("a", 1))
    finally:
        await admin.execute(refusals.replace("SET", "RESET").replace(" = on", ""))
        await admin.close()


async def test_old_published_events_are_forgotten_and_unpublished_ones_never(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    await place(database, "a", 1)
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1))
    async with database.transaction() as session:
        await session.execute(text("UPDATE outbox SET published_at = now() - interval '8 days'"))
    await place(database, "a", 2)
    async with relaying(database_settings, redis, wakeups):

        async def only_the_new_one_is_left() -> bool:
            async with database.read() as session:
                versions = await session.scalars(text("SELECT aggregate_version FROM outbox"))
                return list(versions) == [2]

        await eventually(only_the_new_one_is_left)


async def test_however_many_events_are_old_all_are_forgotten_at_once(
    database: Database,
    database_settings: DatabaseSettings,
    redis: Redis,
    wakeups: Wakeups,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not as many as one statement takes, each minute."""
    monkeypatch.setattr(relay, "_PRUNE_ROWS", 2)
    for version in range(1, 6):
        await place(database, "a", version)
    async with database.transaction() as session:
        await session.execute(text("UPDATE outbox SET published_at = now() - interval '8 days'"))
    async with relaying(database_settings, redis, wakeups):

        async def none_is_left() -> bool:
            async with database.read() as session:
                return await session.scalar(text("SELECT count(*) FROM outbox")) == 0

        await eventually(none_is_left)


@asynccontextmanager
async def relay_process(settings: DatabaseSettings, redis: RedisSettings, name: str) -> AsyncIterator[Process]:
    environment = {**to_environment(settings, redis), "NAME": name}
    script = Path(__file__).with_name("relay_process.py")
    process = await asyncio.create_subprocess_exec(sys.executable, script, env=environment)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def leader(database: Database) -> str | None:
    """The application name of the session that holds the lock."""
    query = text(
        "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
    )
    async with database.read() as session:
        return await session.scalar(query)


@asynccontextmanager
async def two_relays(
    database: Database, settings: DatabaseSettings, redis: RedisSettings
) -> AsyncIterator[tuple[Process, Process]]:
    """Real processes: the first leads, and the second waits for its turn."""

    async def the_first_leads() -> bool:
        return await leader(database) == "one"

    async def both_run() -> bool:
        query = text("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
        async with database.read() as session:
            return set(await session.scalars(query)) >= {"one", "two"}

    async with relay_process(settings, redis, "one") as one:
        await eventually(the_first_leads)
        async with relay_process(settings, redis, "two") as two:
            await eventually(both_run)
            yield one, two


async def test_when_the_leading_relay_is_killed_the_other_takes_over_and_nothing_is_lost(
    database: Database, database_settings: DatabaseSettings, redis_settings: RedisSettings, redis: Redis
) -> None:
    async with two_relays(database, database_settings, redis_settings) as (one, _):
        await place(database, "a", 1)
        await streamed(redis, ("a", 1))
        assert await leader(database) == "one"
        one.send_signal(signal.SIGKILL)
        await place(database, "a", 2)

        async def nothing_is_lost() -> bool:
            # Killed before it marked the first one, the old leader has left that to be repeated.
            return list(dict.fromkeys(await stream(redis))) == [("a", 1), ("a", 2)]

        await eventually(nothing_is_lost)
        assert await leader(database) == "two"


async def test_a_leader_that_stands_still_is_followed_and_publishes_nothing_when_it_wakes(
    database: Database, database_settings: DatabaseSettings, redis_settings: RedisSettings, redis: Redis
) -> None:
    """Each stops while it publishes, one event at a time: what both sent never lies between each other."""
    versions = itertools.count(1)
    placed: list[int] = []
    is_over = asyncio.Event()

    async def place_without_end() -> None:
        while not is_over.is_set():
            placed.append(next(versions))
            await place(database, "a", placed[-1])

    async def five_more() -> None:
        count = await redis.xlen("test:orders") + 5

        async def look() -> bool:
            return await redis.xlen("test:orders") >= count

        await eventually(look, seconds=25)

    async with two_relays(database, database_settings, redis_settings) as (one, two):
        placing = asyncio.create_task(place_without_end())
        for leading in (one, two):
            await five_more()
            leading.send_signal(signal.SIGSTOP)
            await five_more()  # the other one goes on
            leading.send_signal(signal.SIGCONT)
        is_over.set()
        await placing

        async def all_are_published() -> bool:
            return ("a", placed[-1]) in await stream(redis)

        await eventually(all_are_published)
    sent = [version for _, version in await stream(redis)]
    repeats = [later for earlier, later in pairwise(sent) if later != earlier + 1]
    assert sorted(set(sent)) == placed
    assert len(repeats) <= 2, "each new leader may repeat the one event that was not marked, and nobody else"
    assert len(sent) <= len(placed) + 2


async def test_the_lag_and_the_depth_of_the_outbox_are_measured_by_who_leads(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    await place(database, "a", 1)
    await place(database, "a", 2)
    async with database.transaction() as session:
        await session.execute(text("UPDATE outbox SET occurred_at = now() - interval '1 hour'"))
    gauges = [gauge.labels(database_settings.name) for gauge in (unpublished, is_leader, lag_seconds)]
    await redis.config_set("maxmemory", "1")  # every write is refused
    try:
        async with relaying(database_settings, redis, wakeups):

            async def are_measured() -> bool:
                return [gauge._value.get() for gauge in gauges[:2]] == [2, 1]

            await eventually(are_measured)
            assert 3600 <= gauges[2]._value.get() < 3700
    finally:
        await redis.config_set("maxmemory", "0")
    assert [gauge._value.get() for gauge in gauges] == [0, 0, 0]
