"""A session runs prepared statements and SQLAlchemy's in one transaction: all or nothing, and fit for the next one."""

import asyncio
from contextlib import suppress
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from chassis.config.settings import DatabaseSettings
from chassis.errors import ApiError, DatabaseBusy, DatabaseUnreachable, ErrorCode
from chassis.pooling import Database, Row, Session, after_commit
from chassis.pooling.failures import TransactionRolledBack
from chassis.pooling.statements import DriverStatement
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from waiting import eventually

ADD = DriverStatement.of("INSERT INTO idempotency_record VALUES ('shop', :key, '', 201, '')")
KEYS = DriverStatement.of("SELECT key FROM idempotency_record ORDER BY key")
STATEMENTS_RUN = DriverStatement.of(
    "SELECT count(*) AS times FROM pg_prepared_statements WHERE statement LIKE 'WITH insert_0%'"
)
SLEEP = DriverStatement.of("SELECT pg_sleep(:seconds)")


@pytest.fixture
async def of_one(database_settings: DatabaseSettings):
    """One connection: whatever it is left in, the next transaction finds."""
    settings = database_settings.model_copy(update={"pool_size": 1, "max_overflow": 0, "statement_timeout": 1.0})
    pool = Database(settings, pool="session", application_name="test")
    yield pool
    await pool.close()


async def keys(database: Database) -> list[str]:
    async with database.transaction() as session:
        return [row["key"] for row in await session.fetch(KEYS)]


async def test_it_commits_when_the_block_ends_and_then_calls_back(of_one: Database) -> None:
    called: list[list[str]] = []
    async with of_one.transaction() as session:
        await session.fetch(ADD, key="a")
        after_commit(session, lambda: called.append([]))
        assert called == []
    assert called == [[]]
    assert await keys(of_one) == ["a"]


async def test_a_block_that_suppresses_the_error_of_a_statement_raises_because_the_server_commits_nothing(
    of_one: Database,
) -> None:
    called: list[str] = []

    async def add_and_suppress() -> None:
        async with of_one.transaction() as session:
            await session.fetch(ADD, key="a")
            after_commit(session, lambda: called.append("committed"))
            with suppress(asyncpg.UniqueViolationError):
                await session.fetch(ADD, key="a")

    with pytest.raises(TransactionRolledBack):
        await add_and_suppress()
    assert (await keys(of_one), called) == ([], [])


async def test_a_cancellation_stays_one_when_the_connection_is_lost_before_the_rollback(of_one: Database) -> None:
    async def place_and_wait() -> None:
        async with of_one.transaction() as session:
            await session.fetch(ADD, key="a")
            session.driver._transport.abort()
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await place_and_wait()
    assert await keys(of_one) == []


async def test_it_rolls_back_when_the_block_raises_and_calls_nobody(of_one: Database) -> None:
    async def place_and_fail() -> None:
        async with of_one.transaction() as session:
            await session.fetch(ADD, key="a")
            after_commit(session, lambda: pytest.fail("it did not commit"))
            raise LookupError

    with pytest.raises(LookupError):
        await place_and_fail()
    assert await keys(of_one) == []


async def test_who_is_cancelled_in_the_middle_leaves_nothing_behind(of_one: Database, database: Database) -> None:
    async def add_and_wait() -> None:
        async with of_one.transaction() as session:
            await session.fetch(ADD, key="a")
            await session.fetch(SLEEP, seconds=0.9)

    task = asyncio.create_task(add_and_wait())

    async def is_asleep() -> bool:
        async with database.transaction() as session:
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
        async with of_one.transaction() as session:
            pid = await session.driver.fetchval("SELECT pg_backend_pid()")
            async with database.transaction() as other:
                await other.driver.execute("SELECT pg_terminate_backend($1)", pid)
            await session.fetch(ADD, key="a")

    with pytest.raises(DatabaseUnreachable):
        await be_killed()
    assert await keys(of_one) == []


async def test_a_statement_that_runs_out_of_time_is_a_busy_database(of_one: Database) -> None:
    async def be_slow() -> None:
        async with of_one.transaction() as session:
            await session.fetch(SLEEP, seconds=5)

    with pytest.raises(DatabaseBusy):
        await be_slow()
    assert await keys(of_one) == []


async def test_prepared_statements_and_sqlalchemys_are_in_one_transaction(of_one: Database) -> None:
    async def add_and_fail() -> None:
        async with of_one.transaction() as session:
            await session.fetch(ADD, key="a")
            assert await session.scalar(text("SELECT key FROM idempotency_record")) == "a"
            await session.execute(text(ADD.sql.replace("$1", "'b'")))
            raise LookupError

    with pytest.raises(LookupError):
        await add_and_fail()
    assert await keys(of_one) == []
    async with of_one.transaction() as session:
        await session.fetch(ADD, key="a")
        await session.execute(text("SELECT 1"))
    assert await keys(of_one) == ["a"]


def record(key: str, **options: Any) -> Row:
    return Row(statement=ADD, values={"key": key}, **options)


async def test_rows_are_inserted_in_one_statement(of_one: Database) -> None:
    async with of_one.transaction() as session:
        assert await session.insert(record("a"), record("b"), record("c")) == 1
    assert await keys(of_one) == ["a", "b", "c"]
    async with of_one.read() as session:
        (row,) = await session.fetch(STATEMENTS_RUN)
    assert row["times"] == 1


async def test_a_row_whose_key_is_taken_is_the_error_that_it_says_and_none_is_inserted(of_one: Database) -> None:
    async def add_twice() -> None:
        async with of_one.transaction() as session:
            taken = {"idempotency_record_pkey": lambda: ApiError(ErrorCode.STATE_CONFLICT)}
            await session.insert(record("b"), record("a", taken=taken))

    async with of_one.transaction() as session:
        await session.insert(record("a"))
    with pytest.raises(ApiError) as refused:
        await add_twice()
    assert refused.value.code is ErrorCode.STATE_CONFLICT
    assert await keys(of_one) == ["a"]


async def test_a_key_that_is_taken_is_the_drivers_error_when_no_row_says_otherwise(of_one: Database) -> None:
    async def add_twice() -> None:
        async with of_one.transaction() as session:
            await session.insert(record("a"), record("a"))

    with pytest.raises(asyncpg.UniqueViolationError):
        await add_twice()
    assert await keys(of_one) == []


class Base(DeclarativeBase): ...


class Position(Base):
    __tablename__ = "stream_position"
    stream: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[UUID]
    last_id: Mapped[str]


async def add_position(database: Database, key: str) -> None:
    async with database.transaction() as session:
        await session.fetch(ADD, key=key)
        session.add(Position(stream="s", epoch=UUID(int=1), last_id=""))


async def test_what_was_added_to_the_session_is_written_before_the_commit(of_one: Database) -> None:
    await add_position(of_one, "a")
    async with of_one.read() as session:
        assert await session.scalar(text("SELECT stream FROM stream_position")) == "s"


async def test_when_what_was_added_cannot_be_written_all_is_rolled_back(of_one: Database) -> None:
    await add_position(of_one, "a")
    with pytest.raises(IntegrityError):
        await add_position(of_one, "b")
    assert await keys(of_one) == ["a"]


async def test_a_savepoint_rolls_back_alone(of_one: Database) -> None:
    async def fail(session: Session) -> None:
        async with session.begin_nested():
            await session.fetch(ADD, key="b")
            raise LookupError

    async with of_one.transaction() as session:
        await session.fetch(ADD, key="a")
        with pytest.raises(LookupError):
            await fail(session)
    assert await keys(of_one) == ["a"]
