"""What an error of the database is: come again, or mend the code. Every way to a connection says the same."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from chassis.errors import DatabaseBusy, DatabaseUnreachable, HoldfastError, PoolExhausted
from chassis.pooling import Database, Failure, failure_of, is_transient
from chassis.pooling.statements import DriverStatement
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

OUTAGES = ["08006", "25006", "53100", "53200", "53300", "53400", "57P01", "57P02", "57P03", "57P05", "58030"]
BUSY = ["40001", "40P01", "55P03", "57014"]
BUGS = ["0A000", "22012", "23505", "42501", "42601", "42P01", "XX000"]


def raising(state: str) -> str:
    """A statement that fails on the server with this SQLSTATE."""
    return f"DO $$ BEGIN RAISE 'on purpose' USING ERRCODE = '{state}'; END $$"


async def in_a_session(database: Database, sql: str) -> None:
    async with database.transaction() as session:
        await session.execute(text(sql))


async def in_a_read(database: Database, sql: str) -> None:
    async with database.read() as session:
        await session.execute(text(sql))


async def as_a_prepared_statement(database: Database, sql: str) -> None:
    async with database.transaction() as session:
        await session.fetch(DriverStatement.of(sql))


async def on_the_drivers_connection(database: Database, sql: str) -> None:
    async with database.driver() as connection:
        await connection.execute(sql)


NAMED = [in_a_session, in_a_read, as_a_prepared_statement]
"""The ways to a connection that translate what the database raises."""
type Way = Callable[[Database, str], Awaitable[None]]


async def failed(way: Way, database: Database, state: str) -> Exception:
    with pytest.raises((HoldfastError, DBAPIError, asyncpg.PostgresError)) as raised:
        await way(database, raising(state))
    await database.ping()  # the pool goes on
    return raised.value


@pytest.mark.parametrize("way", NAMED)
@pytest.mark.parametrize("state", OUTAGES)
async def test_an_outage_is_answered_as_a_database_that_cannot_be_used_now(
    database: Database, way: Way, state: str
) -> None:
    error = await failed(way, database, state)
    assert isinstance(error, DatabaseUnreachable)
    assert (error.code.value.status, error.code.value.retryable) == (503, True)


@pytest.mark.parametrize("way", NAMED)
@pytest.mark.parametrize("state", BUSY)
async def test_a_busy_database_is_answered_as_one(database: Database, way: Way, state: str) -> None:
    error = await failed(way, database, state)
    assert isinstance(error, DatabaseBusy)
    assert (error.code.value.status, error.code.value.retryable) == (503, True)


@pytest.mark.parametrize("way", NAMED)
@pytest.mark.parametrize("state", BUGS)
async def test_a_bug_stays_what_it_is(database: Database, way: Way, state: str) -> None:
    error = await failed(way, database, state)
    assert isinstance(error, DBAPIError | asyncpg.PostgresError)
    assert not is_transient(error)


@pytest.mark.parametrize("way", [*NAMED, on_the_drivers_connection])
@pytest.mark.parametrize(
    ("states", "failure"), [(OUTAGES, Failure.OUTAGE), (BUSY, Failure.BUSY), (BUGS, Failure.BUG)], ids=str
)
async def test_a_loop_learns_the_same_whatever_way_it_took(
    database: Database, way: Way, states: list[str], failure: Failure
) -> None:
    assert {failure_of(await failed(way, database, state)) for state in states} == {failure}


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ConnectionResetError(), Failure.OUTAGE),
        (TimeoutError(), Failure.OUTAGE),
        (asyncpg.InterfaceError("cannot call Connection.execute(): connection is closed"), Failure.OUTAGE),
        (asyncpg.InternalClientError("got result for unknown protocol state 3"), Failure.OUTAGE),
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), Failure.OUTAGE),
        (RuntimeError("unable to perform operation on <Transport>; the handler is closed"), Failure.OUTAGE),
        (DatabaseUnreachable("main", "away"), Failure.OUTAGE),
        (DatabaseBusy("main", "a lock"), Failure.BUSY),
        (PoolExhausted("main", 1), Failure.BUSY),
        (asyncpg.InterfaceError("cannot perform operation: another operation is in progress"), Failure.BUG),
        (asyncpg.DataError("invalid input for query argument $1"), Failure.BUG),
        (RuntimeError("dictionary changed size during iteration"), Failure.BUG),
        (KeyError("state"), Failure.BUG),
    ],
    ids=repr,
)
def test_an_error_that_no_server_sent_is_judged_too(error: Exception, failure: Failure) -> None:
    assert failure_of(error) is failure


def test_errors_that_came_together_are_as_bad_as_the_worst() -> None:
    busy, away = DatabaseBusy("main", "a lock"), ConnectionResetError()
    assert failure_of(ExceptionGroup("", [busy, busy])) is Failure.BUSY
    assert failure_of(ExceptionGroup("", [busy, away])) is Failure.OUTAGE
    assert failure_of(ExceptionGroup("", [away, ExceptionGroup("", [busy, KeyError()])])) is Failure.BUG


def test_a_cancelled_task_is_no_outage() -> None:
    assert failure_of(asyncio.CancelledError()) is Failure.BUG
