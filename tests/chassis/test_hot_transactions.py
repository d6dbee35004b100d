"""A hot transaction is a transaction like any other: all or nothing, its connection given back fit for the next one."""

import asyncio

import pytest
from chassis.config.settings import DatabaseSettings
from chassis.errors import DatabaseBusy, DatabaseUnreachable
from chassis.pooling import Database, after_commit, execute_in
from chassis.pooling.statements import DriverStatement
from sqlalchemy import text
from waiting import eventually

ADD = DriverStatement.of("INSERT INTO idempotency_record VALUES ('shop', :key, '', 201, '')")
KEYS = DriverStatement.of("SELECT key FROM idempotency_record ORDER BY key")
SLEEP = DriverStatement.of("SELECT pg_sleep(:seconds)")


@pytest.fixture
async def of_one(database_settings: DatabaseSettings):
    """One connection: whatever it is left in, the next transaction finds."""
    settings = database_settings.model_copy(update={"pool_size": 1, "max_overflow": 0, "statement_timeout": 1.0})
    pool = Database(settings, pool="hot", application_name="test")
    yield pool
    await pool.close()


async def keys(database: Database) -> list[str]:
    async with database.hot_transaction() as session:
        return [row["key"] for row in await session.fetch(KEYS)]


async def test_it_commits_when_the_block_ends_and_then_calls_back(of_one: Database) -> None:
    called: list[list[str]] = []
    async with of_one.hot_transaction() as session:
        await session.fetch(ADD, key="a")
        after_commit(session, lambda: called.append([]))
        assert called == []
    assert called == [[]]
    assert await keys(of_one) == ["a"]


async def test_it_rolls_back_when_the_block_raises_and_calls_nobody(of_one: Database) -> None:
    async def place_and_fail() -> None:
        async with of_one.hot_transaction() as session:
            await session.fetch(ADD, key="a")
            after_commit(session, lambda: pytest.fail("it did not commit"))
            raise LookupError

    with pytest.raises(LookupError):
        await place_and_fail()
    assert await keys(of_one) == []


async def test_who_is_cancelled_in_the_middle_leaves_nothing_behind(of_one: Database, database: Database) -> None:
    async def add_and_wait() -> None:
        async with of_one.hot_transaction() as session:
            await session.fetch(ADD, key="a")
            await session.fetch(SLEEP, seconds=0.9)

    task = asyncio.create_task(add_and_wait())

    async def is_asleep() -> bool:
        async with database.hot_transaction() as session:
            look = DriverStatement.of("SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%'")
            return len(await session.fetch(look)) > 1  # this one reads like it, too

    await eventually(is_asleep)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await keys(of_one) == []


async def test_a_server_that_goes_away_in_the_middle_is_an_outage_and_the_next_one_connects_again(
    of_one: Database, database: Database
) -> None:
    async def be_killed() -> None:
        async with of_one.hot_transaction() as session:
            pid = await session.connection.fetchval("SELECT pg_backend_pid()")
            async with database.hot_transaction() as other:
                await other.connection.execute("SELECT pg_terminate_backend($1)", pid)
            await session.fetch(ADD, key="a")

    with pytest.raises(DatabaseUnreachable):
        await be_killed()
    assert await keys(of_one) == []


async def test_a_statement_that_runs_out_of_time_is_a_busy_database(of_one: Database) -> None:
    async def be_slow() -> None:
        async with of_one.hot_transaction() as session:
            await session.fetch(SLEEP, seconds=5)

    with pytest.raises(DatabaseBusy):
        await be_slow()
    assert await keys(of_one) == []


async def test_a_hot_statement_in_a_session_is_in_its_transaction_even_as_the_first(of_one: Database) -> None:
    async def add_and_fail() -> None:
        async with of_one.transaction() as session:
            await execute_in(session, ADD, key="a")
            raise LookupError

    with pytest.raises(LookupError):
        await add_and_fail()
    assert await keys(of_one) == []
    async with of_one.transaction() as session:
        await execute_in(session, ADD, key="a")
        await session.execute(text("SELECT 1"))
    assert await keys(of_one) == ["a"]


async def test_a_server_that_goes_away_under_a_hot_statement_of_a_session_is_an_outage(
    of_one: Database, database: Database
) -> None:
    async def be_killed() -> None:
        async with of_one.transaction() as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            async with database.hot_transaction() as other:
                await other.connection.execute("SELECT pg_terminate_backend($1)", pid)
            await execute_in(session, ADD, key="a")

    with pytest.raises(DatabaseUnreachable):
        await be_killed()
    assert await keys(of_one) == []


async def test_a_hot_statement_of_a_session_that_runs_out_of_time_is_a_busy_database(of_one: Database) -> None:
    async def be_slow() -> None:
        async with of_one.transaction() as session:
            await execute_in(session, SLEEP, seconds=5)

    with pytest.raises(DatabaseBusy):
        await be_slow()
    assert await keys(of_one) == []
