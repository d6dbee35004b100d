import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings, OutboxSettings
from chassis.events import consumer as messaging
from chassis.events import dead_events
from chassis.events import group as consumer_group
from chassis.events.consumer import Consumer, dead_letters
from chassis.events.delivery import Handler, consumed
from chassis.events.group import ConsumerGroup
from chassis.events.inbox import Kinds, Received, Undeliverable, in_order
from chassis.events.outbox import Event, publish
from chassis.events.relay import Relay
from chassis.pooling import Database, Session
from chassis.pooling.wakeup import Wakeups
from chassis.telemetry import current_traceparent
from redis.asyncio import Redis
from sqlalchemy import text
from waiting import eventually

QUICK = OutboxSettings(batch=10, poll_interval=0.05)


class OrderPlaced(Event, type="order.placed"):
    number: int = 1


class OrderConfirmed(Event, type="order.confirmed"):
    pass


@pytest.fixture
async def seen(database_settings: DatabaseSettings, postgres: RealServer) -> AsyncIterator[asyncpg.Connection]:
    """An administrator's connection to the database, where it has made the table `seen` for the handlers."""
    connection = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    await connection.execute("CREATE TABLE seen (at bigint GENERATED ALWAYS AS IDENTITY, what text)")
    await connection.execute("GRANT SELECT, INSERT ON seen TO PUBLIC")
    yield connection
    await connection.close()


async def see(session: Session, received: Received[Any]) -> None:
    what = f"{received.aggregate_id}{received.aggregate_version}"
    await session.execute(text("INSERT INTO seen (what) VALUES (:what)"), {"what": what})


async def effects(seen: asyncpg.Connection) -> list[str]:
    return [row["what"] for row in await seen.fetch("SELECT what FROM seen ORDER BY at")]


async def has_effects(seen: asyncpg.Connection, *expected: str) -> None:
    async def look() -> bool:
        return await effects(seen) == list(expected)

    try:
        await eventually(look)
    finally:
        assert await effects(seen) == list(expected)


async def all_is_acknowledged(redis: Redis) -> None:
    async def look() -> bool:
        groups = await redis.xinfo_groups("test:orders")
        return {(group["pending"], group["lag"]) for group in groups} == {(0, 0)}

    await eventually(look)


async def send(
    redis: Redis,
    aggregate: str,
    version: int = 1,
    *,
    event_id: UUID | None = None,
    type_: str = "order.placed",
    schema: int = 1,
    payload: Mapping[str, object] | None = None,
) -> UUID:
    event_id = event_id or uuid4()
    event = {
        "event_id": event_id,
        "type": type_,
        "schema": schema,
        "aggregate_id": aggregate,
        "aggregate_version": version,
        "occurred_at": "2026-01-01T00:00:00+00:00",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "payload": payload or {},
    }
    await redis.xadd("test:orders", {"event": orjson.dumps(event)})
    return event_id


@asynccontextmanager
async def consuming(
    redis: Redis, database: Database, handlers: Mapping[type[Event], Handler], group: str = "mail", **options: Any
) -> AsyncIterator[Consumer]:
    """A consumer at work; the end of the block stops it as SIGTERM does."""
    stopping = asyncio.Event()
    consumer = Consumer(
        redis,
        database,
        QUICK,
        group=group,
        streams=["orders"],
        handlers=handlers,
        random=lambda: 0.01,
        **options,
    )
    task = asyncio.create_task(consumer.run(stopping))
    try:
        yield consumer
    finally:
        stopping.set()
        await task


async def dead(seen: asyncpg.Connection) -> list[str]:
    return [row["reason"] for row in await seen.fetch("SELECT reason FROM dead_event ORDER BY id")]


async def test_an_event_delivered_twice_has_one_effect(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    event_id = await send(redis, "a", 1)
    await send(redis, "a", 1, event_id=event_id)
    await send(redis, "a", 2)
    async with consuming(redis, database, {OrderPlaced: see}):
        await has_effects(seen, "a1", "a2")
        await all_is_acknowledged(redis)


async def test_events_from_before_the_group_existed_are_read_too(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    await send(redis, "a")
    async with consuming(redis, database, {OrderPlaced: see}):
        await has_effects(seen, "a1")
        await send(redis, "b")
        await has_effects(seen, "a1", "b1")


async def test_a_failed_handler_leaves_nothing_and_is_called_again_before_later_events_of_its_aggregate(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    failures = 2

    async def fail_twice(session: Session, received: Received[OrderPlaced]) -> None:
        nonlocal failures
        await see(session, received)
        if (received.aggregate_id, received.aggregate_version) == ("a", 1) and failures:
            failures -= 1
            raise ConnectionError("lost")

    await send(redis, "a", 1)
    await send(redis, "a", 2)
    await send(redis, "b", 1)
    async with consuming(redis, database, {OrderPlaced: fail_twice}):
        await has_effects(seen, "b1", "a1", "a2")
        await all_is_acknowledged(redis)


async def test_what_cannot_be_handled_is_a_dead_event_with_its_reason(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    async def refuse(_session: Session, received: Received[OrderPlaced]) -> None:
        if received.aggregate_id == "refused":
            raise Undeliverable("no such order")
        raise ConnectionError("never works")

    await redis.xadd("test:orders", {"event": b"{not json"})
    await send(redis, "a", schema=7)
    await send(redis, "b", payload={"number": "many"})
    await send(redis, "refused")
    await send(redis, "failing")
    async with consuming(redis, database, {OrderPlaced: refuse}, max_deliveries=3):

        async def all_are_dead() -> bool:
            return len(await dead(seen)) == 5

        await eventually(all_are_dead)
        await all_is_acknowledged(redis)
    reasons = await dead(seen)
    assert reasons[0].startswith("it cannot be read")
    assert reasons[1] == "this consumer cannot read order.placed version 7"
    assert "number" in reasons[2]
    assert reasons[3:] == ["Undeliverable: no such order", "ConnectionError: never works"]


@pytest.mark.parametrize(
    "fields",
    [
        {"other": "x"},
        {"event": b"\xff\x00"},
        {"event": ""},
        {"event": '{"payload":' * 300 + "{}" + "}" * 300},
        {"event": "[" * 1023 + "]" * 1023},
    ],
    ids=range(5),
)
async def test_an_entry_that_is_no_event_of_ours_is_buried_and_holds_nothing_up(
    redis: Redis, database: Database, seen: asyncpg.Connection, fields: dict[str, Any]
) -> None:
    await redis.xadd("test:orders", fields)
    await send(redis, "a")
    async with consuming(redis, database, {OrderPlaced: see}):
        await has_effects(seen, "a1")
        await all_is_acknowledged(redis)
    (reason,) = await dead(seen)
    assert reason.startswith("it cannot be read")


async def test_an_event_that_ended_every_process_that_took_it_is_buried_unread(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    await send(redis, "a")
    await redis.xgroup_create("test:orders", "mail", id="0")
    for process in ("one", "two", "three"):  # each took it and died
        await redis.xreadgroup("mail", process, {"test:orders": ">"})
        await redis.xautoclaim("test:orders", "mail", process, 0)
    async with consuming(redis, database, {OrderPlaced: see}, max_deliveries=3, claim_after=0.05):

        async def is_dead() -> bool:
            return await dead(seen) == ["it was delivered 3 times, and no delivery ended"]

        await eventually(is_dead)
    assert await effects(seen) == []


async def test_a_type_that_nobody_here_reads_is_skipped(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    before = consumed.labels("orders", "other", "skipped")._value.get()
    await send(redis, "a", type_="order.framed")
    await send(redis, "b")
    async with consuming(redis, database, {OrderPlaced: see}):
        await has_effects(seen, "b1")
        await all_is_acknowledged(redis)
    assert consumed.labels("orders", "other", "skipped")._value.get() == before + 1
    assert await seen.fetchval("SELECT count(*) FROM inbox") == 1


async def test_entries_of_a_dead_consumer_are_taken_over(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    await send(redis, "a")
    await redis.xgroup_create("test:orders", "mail", id="0")
    await redis.xreadgroup("mail", "dead", {"test:orders": ">"})
    async with consuming(redis, database, {OrderPlaced: see}, claim_after=0.05):
        await has_effects(seen, "a1")
        await all_is_acknowledged(redis)


async def test_entries_trimmed_between_reading_and_trying_again_end_the_epoch_and_are_given_up(redis: Redis) -> None:
    await send(redis, "a")
    await redis.set("test:orders:epoch", "1")
    group = ConsumerGroup(redis, name="mail", consumer="one", streams=["orders"], batch=10)
    await group.create("the test")
    assert len(await group.read_new(block=0.01)) == 1
    await redis.xtrim("test:orders", 0, approximate=False)
    assert [page async for page in group.pending("orders")] == [[]]
    assert await redis.get("test:orders:epoch") is None
    assert (await redis.xinfo_groups("test:orders"))[0]["pending"] == 0


async def test_a_handler_continues_the_trace_of_the_event(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    traces: list[str | None] = []

    async def note(session: Session, received: Received[OrderPlaced]) -> None:
        traces.append(current_traceparent())
        await see(session, received)

    await send(redis, "a")
    async with consuming(redis, database, {OrderPlaced: note}):
        await has_effects(seen, "a1")
    assert "4bf92f3577b34da6a3ce929d0e0e4736" in (traces[0] or "")


async def test_a_stopping_consumer_finishes_its_batch_and_leaves_the_group(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    for number in range(3):
        await send(redis, "a", number + 1)
    stopping = asyncio.Event()

    async def stop_at_the_first(session: Session, received: Received[OrderPlaced]) -> None:
        stopping.set()
        await see(session, received)

    consumer = Consumer(
        redis, database, QUICK, group="mail", streams=["orders"], handlers={OrderPlaced: stop_at_the_first}
    )
    await asyncio.wait_for(consumer.run(stopping), 10)
    await has_effects(seen, "a1", "a2", "a3")
    (group,) = await redis.xinfo_groups("test:orders")
    assert (group["pending"], group["consumers"]) == (0, 0)


async def test_an_emptied_redis_loses_no_event_and_repeats_no_effect(
    redis: Redis, database: Database, database_settings: DatabaseSettings, seen: asyncpg.Connection
) -> None:
    async def place(version: int) -> None:
        async with database.transaction() as session:
            await publish(session, OrderPlaced(), stream="orders", aggregate_id="a", aggregate_version=version)

    stopping = asyncio.Event()
    async with Wakeups(database_settings, application_name="test") as wakeups:
        relay = asyncio.create_task(
            Relay(database_settings, redis, QUICK, service="orders", wakeups=wakeups).run(stopping)
        )
        async with consuming(redis, database, {OrderPlaced: see}):
            await place(1)
            await has_effects(seen, "a1")
            await redis.flushall()
            await place(2)
            await has_effects(seen, "a1", "a2")

            async def everything_is_in_redis_again() -> bool:
                return await redis.xlen("test:orders") == 2

            await eventually(everything_is_in_redis_again)
            await all_is_acknowledged(redis)
        stopping.set()
        await relay
    assert await effects(seen) == ["a1", "a2"]


async def test_an_outage_of_the_database_is_no_fault_of_the_event(
    redis: Redis,
    database: Database,
    seen: asyncpg.Connection,
    database_settings: DatabaseSettings,
    postgres: RealServer,
) -> None:
    admin = await asyncpg.connect(postgres.dsn)
    async with consuming(redis, database, {OrderPlaced: see}, max_deliveries=3) as consumer:
        await send(redis, "a", 1)
        await has_effects(seen, "a1")
        await admin.execute(f"ALTER DATABASE {database_settings.name} ALLOW_CONNECTIONS false")
        await seen.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            database_settings.name,
        )
        await send(redis, "a", 2)

        async def many_tries_have_failed() -> bool:
            return consumer._failures > 5

        await eventually(many_tries_have_failed)
        await admin.execute(f"ALTER DATABASE {database_settings.name} ALLOW_CONNECTIONS true")
        await has_effects(seen, "a1", "a2")
    await admin.close()
    assert await dead(seen) == []


# Dead events


async def test_a_dead_event_is_replayed_when_somebody_asks_for_it(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    async def refuse(_session: Session, _received: Received[OrderPlaced]) -> None:
        raise Undeliverable("no such order")

    async def dead_numbers() -> list[int]:
        async with database.transaction() as session:
            return [event.id for event in await dead_events.list_dead(session)]

    for aggregate in "abc":
        await send(redis, aggregate)
    async with consuming(redis, database, {OrderPlaced: refuse}, claim_after=0.05):

        async def three_are_counted() -> bool:
            return dead_letters.labels("mail")._value.get() == 3

        await eventually(three_are_counted)
        first, *others = await dead_numbers()
        async with database.transaction() as session:
            assert await dead_events.replay(session, dry_run=True) == [first, *others]
            assert not any(event.replay_at for event in await dead_events.list_dead(session))
            assert await dead_events.replay(session, stream="payments") == []
            assert await dead_events.replay(session, event_number=first) == [first]

        async def is_dead_again() -> bool:
            return bool(await seen.fetchval("SELECT died_at > now() - interval '1 minute' AND replay_at IS NULL"
                                            " FROM dead_event WHERE id = $1", first))  # fmt: skip

        await eventually(is_dead_again)
        assert await dead_numbers() == [first, *others]
    async with consuming(redis, database, {OrderPlaced: see}, claim_after=0.05):
        assert await effects(seen) == []
        async with database.transaction() as session:
            await dead_events.replay(session)

        async def none_is_left() -> bool:
            return await dead_numbers() == [] and dead_letters.labels("mail")._value.get() == 0

        await eventually(none_is_left)
    assert await effects(seen) == ["a1", "b1", "c1"]
    async with database.transaction() as session:
        assert await dead_events.show(session, first) is None


async def test_a_dead_event_that_ends_the_process_when_it_is_replayed_is_tried_once_and_others_keep_their_turn(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    begun = asyncio.Event()

    async def never_end(_session: Session, _received: Received[OrderPlaced]) -> None:
        begun.set()
        await asyncio.Event().wait()

    await send(redis, "a")
    [(_, fields)] = await redis.xrange("test:orders")
    await redis.delete("test:orders")
    await seen.execute(
        "INSERT INTO dead_event (consumer, stream, entry_id, event, reason, replay_at)"
        " VALUES ('mail', 'orders', '1-0', $1, 'lost', now()), ('mail', 'orders', '1-1', $1, 'lost', now())",
        fields[b"event"].decode(),
    )
    consumer = Consumer(redis, database, QUICK, group="mail", streams=["orders"], handlers={OrderPlaced: never_end})
    process = asyncio.create_task(consumer.run(asyncio.Event()))
    await begun.wait()
    process.cancel()
    await asyncio.wait([process])
    assert [row[0] for row in await seen.fetch("SELECT replay_at IS NULL FROM dead_event ORDER BY id")] == [True, False]


async def test_an_event_that_is_dead_and_published_again_is_one_dead_letter(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    event = b"{not json"
    for _ in range(2):
        await redis.xadd("test:orders", {"event": event})
    async with consuming(redis, database, {OrderPlaced: see}):
        await all_is_acknowledged(redis)
    assert len(await dead(seen)) == 1


async def test_a_consumer_that_is_long_gone_is_removed_unless_something_of_its_is_left(
    redis: Redis, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_group, "_GONE_AFTER_MS", 1)
    await redis.xgroup_create("test:orders", "mail", id="0", mkstream=True)
    await redis.xgroup_createconsumer("test:orders", "mail", "gone")
    await send(redis, "a")
    await redis.xreadgroup("mail", "busy", {"test:orders": ">"})
    async with consuming(redis, database, {OrderPlaced: see}, claim_after=600):

        async def names() -> bool:
            found = {consumer["name"] for consumer in await redis.xinfo_consumers("test:orders", "mail")}
            return b"gone" not in found and b"busy" in found

        await eventually(names)


# What is forgotten


async def test_old_ids_are_forgotten_however_many_and_what_is_held_never(
    redis: Redis, database: Database, seen: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "_PRUNE_ROWS", 2)
    await seen.execute(
        "INSERT INTO inbox (consumer, event_id, received_at, status, aggregate_id, aggregate_version, event)"
        " SELECT consumer, uuidv7(), now() - make_interval(days => days), status, aggregate, 1, event::jsonb"
        " FROM (VALUES ('mail', 15, 'handled', NULL, NULL), ('mail', 13, 'handled', NULL, NULL),"
        " ('mail', 15, 'held', 'a', '{}'), ('another', 15, 'handled', NULL, NULL))"
        " AS given (consumer, days, status, aggregate, event), generate_series(1, 5)"
    )

    async def only_old_ones_are_gone() -> bool:
        query = "SELECT consumer, status, count(*)::int FROM inbox GROUP BY 1, 2"
        left = {(row[0], row[1]): row[2] for row in await seen.fetch(query)}
        return left == {("mail", "handled"): 5, ("mail", "held"): 5, ("another", "handled"): 5}

    async with consuming(redis, database, {OrderPlaced: see}, claim_after=0.05):
        await eventually(only_old_ones_are_gone)


# Held events


async def test_an_early_event_is_held_and_applied_in_order_with_the_one_it_waited_for(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    last_version = 0
    kinds = Kinds([OrderPlaced, OrderConfirmed])

    async def apply_in_order(session: Session, received: Received[Event]) -> None:
        nonlocal last_version
        for event in await in_order(session, received, kinds, last_version=last_version):
            await see(session, event)
            last_version = event.aggregate_version

    async with consuming(redis, database, {OrderPlaced: apply_in_order, OrderConfirmed: apply_in_order}):
        await send(redis, "a", 3)
        await send(redis, "a", 2, type_="order.confirmed")
        await send(redis, "a", 5)
        await all_is_acknowledged(redis)
        assert await effects(seen) == []
        assert await seen.fetchval("SELECT count(*) FROM inbox WHERE status = 'held'") == 3
        await send(redis, "a", 1)
        await has_effects(seen, "a1", "a2", "a3")
        await send(redis, "a", 4)
        await has_effects(seen, "a1", "a2", "a3", "a4", "a5")
        await send(redis, "a", 2)  # late: another event with a version that was applied
        await all_is_acknowledged(redis)
    assert await effects(seen) == ["a1", "a2", "a3", "a4", "a5"]
    assert await seen.fetchval("SELECT count(*) FROM inbox WHERE status = 'held'") == 0
