"""Events of one read are handled in one transaction, which is taken apart when one of them fails."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from captured_logs import captured_logs
from chassis.events import Undeliverable
from chassis.events.consumer import Consumer
from chassis.events.delivery import consumed
from chassis.events.inbox import Received
from chassis.logging import get_logger
from chassis.pooling import Database, Session, log_after_commit
from redis.asyncio import Redis
from sqlalchemy import Identity, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from test_messaging import (
    QUICK,
    OrderPlaced,
    all_is_acknowledged,
    consuming,
    dead,
    effects,
    has_effects,
    see,
    seen,
    send,
)
from waiting import eventually

__all__ = ["seen"]

pytestmark = pytest.mark.timeout(40)

log = get_logger(__name__)


class CardDeclined(Exception):
    pass


@pytest.fixture
async def transactions(seen: asyncpg.Connection) -> asyncpg.Connection:
    await seen.execute("ALTER TABLE seen ADD COLUMN xid text DEFAULT pg_current_xact_id()::text")
    return seen


async def count_of_transactions(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT count(DISTINCT xid) FROM seen"))


def outcomes(outcome: str) -> float:
    return consumed.labels("orders", "order.placed", outcome)._value.get()


async def test_the_events_of_one_read_commit_together(
    redis: Redis, database: Database, transactions: asyncpg.Connection
) -> None:
    for aggregate in "abcde":
        await send(redis, aggregate)
    before = outcomes("handled")
    async with consuming(redis, database, {OrderPlaced: see}):
        await has_effects(transactions, "a1", "b1", "c1", "d1", "e1")
        await all_is_acknowledged(redis)
    assert await count_of_transactions(transactions) == 1
    assert outcomes("handled") - before == 5


@pytest.mark.parametrize("error", [CardDeclined("c"), Undeliverable("c")])
async def test_one_failing_event_takes_the_transaction_apart_and_the_others_have_their_effect_once(
    redis: Redis, database: Database, transactions: asyncpg.Connection, error: Exception
) -> None:
    tries: list[str] = []

    async def handle(session: Session, received: Received[Any]) -> None:
        tries.append(received.aggregate_id)
        await see(session, received)
        if received.aggregate_id == "c" and tries.count("c") < 3:
            raise error

    for aggregate in "abcde":
        await send(redis, aggregate)
    failed = outcomes("failed") + outcomes("dead")
    async with consuming(redis, database, {OrderPlaced: handle}):
        await all_is_acknowledged(redis)
    expected = ["a1", "b1", "d1", "e1"]
    assert [what for what in await effects(transactions) if what != "c1"] == expected
    assert (await effects(transactions)).count("c1") == (0 if isinstance(error, Undeliverable) else 1)
    assert tries[:8] == ["a", "b", "c", "a", "b", "c", "d", "e"]  # together until the failure, then each alone
    assert outcomes("failed") + outcomes("dead") - failed == 1  # the attempt together counts for no event


async def test_an_event_that_is_twice_in_a_read_has_its_effect_once(
    redis: Redis, database: Database, transactions: asyncpg.Connection
) -> None:
    event_id = await send(redis, "a")
    await send(redis, "a", event_id=event_id)
    await send(redis, "b")
    async with consuming(redis, database, {OrderPlaced: see}):
        await has_effects(transactions, "a1", "b1")
        await all_is_acknowledged(redis)
    assert await count_of_transactions(transactions) == 1


async def test_the_lines_of_events_that_commit_together_have_the_ids_of_their_own_event(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    async def handle(session: Session, received: Received[Any]) -> None:
        await see(session, received)
        log_after_commit(session, log.info, "order_seen")

    ids = [str(await send(redis, aggregate)) for aggregate in "abc"]
    with captured_logs() as logs:
        async with consuming(redis, database, {OrderPlaced: handle}):
            await has_effects(seen, "a1", "b1", "c1")
            await all_is_acknowledged(redis)
    for name in ("order_seen", "event_processed"):
        assert [line["event_id"] for line in logs.of(name)] == ids


class Base(DeclarativeBase):
    pass


class Seen(Base):
    __tablename__ = "seen"

    at: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    what: Mapped[str]


async def test_an_event_reads_the_rows_of_the_earlier_events_of_its_transaction_as_if_they_were_committed(
    redis: Redis, database: Database, transactions: asyncpg.Connection
) -> None:
    """SQLAlchemy sends a row that a handler adds late, and remembers the rows that a handler has read."""
    await transactions.execute("GRANT UPDATE ON seen TO PUBLIC")
    remembered: list[Seen] = []
    read: list[list[str]] = []

    async def handle(session: Session, received: Received[Any]) -> None:
        await session.execute(text("UPDATE seen SET what = what || '+'"))
        rows = (await session.scalars(select(Seen).order_by(Seen.at))).all()
        read.append([row.what for row in rows])
        added = Seen(what=received.aggregate_id)
        session.add(added)
        remembered.extend([*rows, added])

    for aggregate in "abc":
        await send(redis, aggregate)
    async with consuming(redis, database, {OrderPlaced: handle}):
        await has_effects(transactions, "a++", "b+", "c")
        await all_is_acknowledged(redis)
    assert read == [[], ["a+"], ["a++", "b+"]]
    assert await count_of_transactions(transactions) == 1


async def test_an_event_whose_handler_suppresses_a_database_error_is_dead_and_its_neighbour_has_its_effect(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    """PostgreSQL answers the COMMIT of a transaction with a failed statement with a rollback, and with no error."""

    async def handle(session: Session, received: Received[Any]) -> None:
        await see(session, received)
        if received.aggregate_id == "b":
            with suppress(DBAPIError):
                await session.execute(text("SELECT 1 / 0"))

    await send(redis, "a")
    await send(redis, "b")
    async with consuming(redis, database, {OrderPlaced: handle}, max_deliveries=2):
        await all_is_acknowledged(redis)
    assert await effects(seen) == ["a1"]
    (reason,) = await dead(seen)
    assert reason.startswith("TransactionRolledBack: ")


async def test_two_groups_whose_transactions_lock_rows_in_opposite_orders_handle_each_event_once(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    """PostgreSQL ends one of the two transactions, and its events are delivered alone."""
    await seen.execute("GRANT UPDATE ON seen TO PUBLIC")
    await seen.execute("INSERT INTO seen (what) VALUES ('x'), ('y')")
    both_hold_a_row = asyncio.Barrier(2)
    first: set[str] = set()

    async def handle(session: Session, received: Received[Any]) -> None:
        rows = {"one": {"a": "x", "b": "y"}, "two": {"a": "y", "b": "x"}}[received.consumer]
        row = rows[received.aggregate_id]
        await session.execute(text("UPDATE seen SET what = what || '+' WHERE what LIKE :row"), {"row": f"{row}%"})
        if received.consumer not in first:
            first.add(received.consumer)
            await both_hold_a_row.wait()

    await send(redis, "a")
    await send(redis, "b")
    async with (
        consuming(redis, database, {OrderPlaced: handle}, group="one"),
        consuming(redis, database, {OrderPlaced: handle}, group="two"),
    ):
        await has_effects(seen, "x++", "y++")
        await all_is_acknowledged(redis)
    assert await dead(seen) == []


async def test_entries_that_another_consumer_takes_over_while_their_transaction_runs_have_their_effect_once(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    """The rows in the inbox keep the other consumer from a second effect."""
    reached, may_end = asyncio.Event(), asyncio.Event()
    handled: list[str] = []

    async def handle(session: Session, received: Received[Any]) -> None:
        handled.append(received.aggregate_id)
        await see(session, received)
        if received.aggregate_id == "b":
            reached.set()
            await may_end.wait()

    async def are_taken_over() -> bool:
        return len(await redis.xpending_range("test:orders", "mail", "-", "+", 10, consumername="other")) == 3

    for aggregate in "abc":
        await send(redis, aggregate)
    async with consuming(redis, database, {OrderPlaced: handle}, name="first"):
        await asyncio.wait_for(reached.wait(), 10)
        async with consuming(redis, database, {OrderPlaced: handle}, name="other", claim_after=0.05):
            await eventually(are_taken_over)
            may_end.set()
            await all_is_acknowledged(redis)
    assert handled == ["a", "b", "c"]
    assert await effects(seen) == ["a1", "b1", "c1"]


async def test_a_consumer_that_is_cancelled_in_a_transaction_of_several_events_has_no_effect(
    redis: Redis, database: Database, seen: asyncpg.Connection
) -> None:
    reached = asyncio.Event()

    async def handle(session: Session, received: Received[Any]) -> None:
        await see(session, received)
        if received.aggregate_id == "b":
            reached.set()
            await asyncio.Event().wait()

    for aggregate in "abc":
        await send(redis, aggregate)
    consumer = Consumer(redis, database, QUICK, group="mail", streams=["orders"], handlers={OrderPlaced: handle})
    task = asyncio.create_task(consumer.run(asyncio.Event()))
    await asyncio.wait_for(reached.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await effects(seen) == []
    async with consuming(redis, database, {OrderPlaced: see}):
        await has_effects(seen, "a1", "b1", "c1")
        await all_is_acknowledged(redis)
