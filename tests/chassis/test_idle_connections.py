"""A transaction hands its connection on to the next one, and a broken one goes back to the pool."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from chassis.config.settings import DatabaseSettings
from chassis.errors import PoolExhausted
from chassis.fast.idle_connections import TRUSTED_SECONDS, Borrowed, IdleConnections
from chassis.pooling import Database
from chassis.pooling.engine import create_engine
from chassis.pooling.statements import DriverStatement
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool
from waiting import eventually

PID = DriverStatement.of("SELECT pg_backend_pid() AS pid")


class Open:
    """A connection of which only this is asked."""

    is_lost = False

    def is_closed(self) -> bool:
        return self.is_lost


@pytest.fixture
def of_one_settings(database_settings: DatabaseSettings) -> DatabaseSettings:
    return database_settings.model_copy(update={"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.5})


@pytest.fixture
async def of_one(of_one_settings: DatabaseSettings):
    pool = Database(of_one_settings, pool="kept", application_name="test")
    yield pool
    await pool.close()


async def pid_of(database: Database) -> int:
    async with database.transaction() as session:
        (row,) = await session.fetch(PID)
        return int(row["pid"])


def kept(*, taken_at: float = 0.0, used_at: float = 0.0) -> Borrowed:
    pooled: Any = None
    connection: Any = None
    driver: Any = Open()
    return Borrowed(pooled, connection, driver, taken_at=taken_at, used_at=used_at)


def test_one_is_trusted_for_a_while_after_its_last_use_and_seen_by_the_pool_every_second() -> None:
    assert kept(taken_at=0.0, used_at=0.5).is_good(0.9, return_after=1.0)
    assert not kept(taken_at=0.0, used_at=0.0).is_good(TRUSTED_SECONDS, return_after=1.0)
    assert not kept(taken_at=0.0, used_at=0.9).is_good(1.0, return_after=1.0)


def test_one_that_is_closed_is_not_handed_on() -> None:
    closed = kept()
    closed.driver.is_lost = True  # type: ignore[attr-defined]
    assert not closed.is_good(0.1, return_after=1.0)


@pytest.fixture
async def engine(database_settings: DatabaseSettings) -> AsyncIterator[AsyncEngine]:
    """With a pool of two."""
    settings = database_settings.model_copy(update={"pool_size": 2, "max_overflow": 0})
    made = create_engine(settings, pool="kept", application_name="test", passwords=lambda: settings.passwords)
    yield made
    await made.dispose()


@pytest.fixture
async def connections(engine: AsyncEngine) -> AsyncIterator[IdleConnections]:
    kept = IdleConnections(engine)
    yield kept
    await kept.close()


async def two_kept(connections: IdleConnections) -> tuple[Borrowed, Borrowed]:
    """The one that was used first, and the other one."""
    first, last = await connections.take(), await connections.take()
    await connections.keep(first)
    await connections.keep(last)
    return first, last


async def test_the_next_transaction_gets_what_the_last_one_kept_without_asking_the_pool(
    connections: IdleConnections,
) -> None:
    _, last = await two_kept(connections)
    assert await connections.take() is last
    await connections.keep(last)


async def test_a_connection_is_trusted_from_the_end_of_its_last_use(connections: IdleConnections) -> None:
    first = await connections.take()
    first.used_at -= 2 * TRUSTED_SECONDS
    await connections.keep(first)
    assert await connections.take() is first
    await connections.keep(first)


async def test_a_connection_that_broke_is_the_pool_s_at_once(connections: IdleConnections, engine: AsyncEngine) -> None:
    broken = await connections.take()
    broken.driver.terminate()
    await connections.keep(broken)
    assert (len(connections), checked_out(engine)) == (0, 0)


async def test_in_the_end_the_pool_has_all(connections: IdleConnections, engine: AsyncEngine) -> None:
    await two_kept(connections)
    assert checked_out(engine) == 2
    await connections.close()
    assert (len(connections), checked_out(engine)) == (0, 0)


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def test_every_way_to_a_connection_gets_the_one_that_is_idle(of_one: Database) -> None:
    pid = await pid_of(of_one)
    async with of_one.read() as session:
        assert await session.scalar(text("SELECT pg_backend_pid()")) == pid
    async with of_one.transaction() as session:
        assert await session.scalar(text("SELECT pg_backend_pid()")) == pid
    async with of_one.driver() as connection:
        assert await connection.fetchval("SELECT pg_backend_pid()") == pid
    assert await pid_of(of_one) == pid


async def test_an_idle_connection_counts_as_one(of_one: Database) -> None:
    def connections(state: str) -> float | None:
        return REGISTRY.get_sample_value("db_client_connection_count", {"pool": "kept", "state": state})

    async with of_one.transaction():
        assert (connections("used"), connections("idle")) == (1, 0)
    assert (connections("used"), connections("idle")) == (0, 1)


async def test_a_backend_that_ends_between_two_transactions_fails_neither(of_one: Database, database: Database) -> None:
    async with of_one.transaction() as session:
        connection = session.driver
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    async with database.transaction() as other:
        await other.driver.execute("SELECT pg_terminate_backend($1)", pid)

    async def is_known() -> bool:
        return bool(connection.is_closed())

    await eventually(is_known)
    assert await pid_of(of_one) != pid


async def test_who_waits_for_a_connection_in_use_is_told_in_time_and_the_next_one_gets_it(of_one: Database) -> None:
    async with of_one.transaction():
        with pytest.raises(PoolExhausted):
            await pid_of(of_one)
        waiting = asyncio.create_task(pid_of(of_one))
        await eventually(is_pending)
    assert await waiting


async def is_pending() -> bool:
    return REGISTRY.get_sample_value("db_client_connection_pending_requests", {"pool": "kept"}) == 1
