"""The relay reads each stream from a floor, and an event that commits late is never below it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings, OutboxSettings
from chassis.events.floors import Floors
from chassis.events.outbox import publish
from chassis.events.relay import Relay
from chassis.pooling import Database
from chassis.pooling.statements import DriverStatement
from chassis.pooling.wakeup import Wakeups, connect
from redis.asyncio import Redis
from test_outbox import QUICK, OrderPlaced, place, stream, streamed, wakeups
from waiting import eventually

__all__ = ["wakeups"]

_PAUSE = DriverStatement.of("SELECT pg_sleep(0.002)")

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def connection(database_settings: DatabaseSettings) -> AsyncIterator[asyncpg.Connection]:
    found = await connect(database_settings, application_name="look")
    yield found
    await found.close()


@asynccontextmanager
async def relaying(
    settings: DatabaseSettings, redis: Redis, wakeups: Wakeups, outbox: OutboxSettings = QUICK
) -> AsyncIterator[Floors]:
    """A relay at work, by its floors."""
    stopping = asyncio.Event()
    relay = Relay(settings, redis, outbox, service="orders", wakeups=wakeups)
    task = asyncio.create_task(relay.run(stopping))

    async def leads() -> bool:
        return relay._sender.term > 0

    try:
        await eventually(leads)
        yield relay._floors
    finally:
        stopping.set()
        await asyncio.wait([task])


def test_the_floor_waits_for_each_transaction_that_had_written_at_a_look() -> None:
    floors = Floors()
    floors.note_look(10, {"early"})
    floors.note_batch("orders", [3, 9], published=2)
    assert floors.of("orders") == 1  # `early` may still commit an event with a lower seq
    floors.note_look(20, {"early", "late"})
    floors.note_batch("orders", [], published=0)
    assert floors.of("orders") == 1
    floors.note_look(30, {"late"})
    floors.note_batch("orders", [], published=0)
    assert floors.of("orders") == 11
    floors.note_look(40, set())
    floors.note_batch("orders", [], published=0)
    assert floors.of("orders") == 31


def test_the_floor_does_not_pass_an_event_that_waits() -> None:
    floors = Floors()
    floors.note_look(100, set())
    floors.note_look(100, set())
    floors.note_batch("orders", [7, 8, 9], published=1)  # a slow group holds the rest back
    assert floors.of("orders") == 8
    floors.note_batch("orders", [8, 9], published=2)
    assert floors.of("orders") == 10
    floors.note_streams(["orders", "payments"])
    assert floors.lowest == 0  # nobody has read payments yet
    floors.note_batch("payments", [], published=0)
    assert floors.lowest == 10


def test_a_stream_that_appears_after_the_relay_looked_for_streams_is_above_the_next_search() -> None:
    floors = Floors()
    floors.note_streams(["orders"])
    floors.note_look(10, set())  # an event of another stream commits, with the seq 5
    floors.note_look(20, set())
    floors.note_batch("orders", [], published=0)
    assert floors.lowest == 11
    assert floors.new_streams_from <= 5
    floors.note_streams(["orders", "other"])
    assert floors.new_streams_from == 11


async def test_events_of_a_transaction_that_commits_late_come_before_their_aggregates_next(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    async with relaying(database_settings, redis, wakeups) as floors:
        await place(database, "before")
        await streamed(redis, ("before", 1))
        async with database.transaction() as late:
            await publish(late, OrderPlaced(), stream="orders", aggregate_id="late", aggregate_version=1)
            for number in range(5):
                await place(database, f"between{number}")

            async def are_streamed_and_looked_after() -> bool:
                _, writers = floors._last_look
                return len(await stream(redis)) == 6 and bool(writers)

            await eventually(are_streamed_and_looked_after)
            assert floors.lowest <= 2  # `late` has the seq 2
        await place(database, "late", 2)
        await streamed(
            redis, ("before", 1), *((f"between{number}", 1) for number in range(5)), ("late", 1), ("late", 2)
        )


async def test_the_floor_moves_on_while_an_unrelated_transaction_is_left_open(
    database: Database, database_settings: DatabaseSettings, postgres: RealServer, redis: Redis, wakeups: Wakeups
) -> None:
    held = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    async with relaying(database_settings, redis, wakeups) as floors, held.transaction(isolation="repeatable_read"):
        await held.execute("CREATE TABLE unrelated (id int)")  # it writes, but not to the outbox
        for version in (1, 2, 3):
            await place(database, "a", version)

        async def has_passed_all() -> bool:
            return floors.lowest == 4

        await eventually(has_passed_all)
    await held.close()


async def test_behind_a_transaction_left_open_a_turn_reads_only_what_waits(
    database: Database,
    database_settings: DatabaseSettings,
    postgres: RealServer,
    connection: asyncpg.Connection,
    redis: Redis,
    wakeups: Wakeups,
) -> None:
    """Fails if turns begin at the start of the index: each would read the entries of all events before it."""
    events, turns = 3_000, 40

    async def entries_read() -> int:
        found: int = await connection.fetchval(
            "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'outbox_unpublished'"
        )
        return found

    held = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    async with held.transaction(isolation="repeatable_read"):
        await held.execute("SELECT FROM outbox")
        await connection.execute(
            "INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload) "
            "SELECT 'orders', 'order.placed', 1, n::text, 1, '{\"amount\": 1}' FROM generate_series(1, $1) AS n",
            events,
        )
        large = OutboxSettings(batch=1_000, poll_interval=0.05)
        async with relaying(database_settings, redis, wakeups, large) as floors:

            async def has_passed_all() -> bool:
                return floors.lowest > events

            await eventually(has_passed_all)
            for version in range(1, turns + 1):
                await place(database, "later", version)
                await eventually(lambda version=version: _has(redis, events + version))
    await held.close()
    # A session reports its statistics when it ends. The first pass reads the entries a few times, more often on a busy
    # machine. If one statement of each later turn began at the start, the turns would read 120,000 entries in addition.
    assert events <= await entries_read() < turns * events


async def _has(redis: Redis, entries: int) -> bool:
    return int(await redis.xlen("test:orders")) == entries


@pytest.mark.parametrize("seed", range(3))
async def test_whenever_transactions_commit_each_aggregates_events_go_out_in_order(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups, seed: int
) -> None:
    random_ = random.Random(seed)
    versions = 6

    async def live(aggregate: str) -> None:
        """Transactions one after the other, as the lock of the aggregate's row makes them be."""
        for version in range(1, versions + 1):
            async with database.transaction() as session:
                await publish(
                    session, OrderPlaced(), stream="orders", aggregate_id=aggregate, aggregate_version=version
                )
                for _ in range(random_.choice([0, 0, 1, 30])):
                    await session.fetch(_PAUSE)

    aggregates = [f"a{number}" for number in range(4)]
    async with relaying(database_settings, redis, wakeups, OutboxSettings(batch=2, poll_interval=0.01)):
        async with asyncio.TaskGroup() as tasks:
            for aggregate in aggregates:
                tasks.create_task(live(aggregate))
        await eventually(lambda: _has(redis, versions * len(aggregates)))
    published = await stream(redis)
    for aggregate in aggregates:
        assert [version for name, version in published if name == aggregate] == list(range(1, versions + 1))


async def test_a_stream_is_found_however_many_events_of_others_wait(
    connection: asyncpg.Connection, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    await connection.execute(
        "INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload) "
        "SELECT 'orders', 'order.placed', 1, n::text, 1, '{\"amount\": 1}' FROM generate_series(1, 3000) AS n"
    )
    await connection.execute(
        "INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload) "
        "VALUES ('payments', 'order.placed', 1, 'one', 1, '{\"amount\": 1}')"
    )

    async def payments_are_there_first() -> bool:
        return bool(await redis.xlen("test:payments")) and int(await redis.xlen("test:orders")) < 3_000

    async with relaying(database_settings, redis, wakeups, OutboxSettings(batch=1, poll_interval=0.05)):
        await eventually(payments_are_there_first)
