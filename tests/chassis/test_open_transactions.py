"""Whatever cuts a piece of work short, nobody gets a connection that is in a transaction."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from chassis.config.settings import DatabaseSettings
from chassis.errors import DatabaseUnreachable, PoolExhausted
from chassis.pooling import Database, open_health_pool
from chassis.pooling.statements import DriverStatement
from freezing_proxy import FreezingProxy
from sqlalchemy import text
from waiting import eventually

ADD = DriverStatement.of("INSERT INTO idempotency_record VALUES ('shop', :key, '', 201, '')")
BEGAN = DriverStatement.of("SELECT now() AS began")
CANCELLATIONS = 400
AT_ONCE = 8
LATEST_SECONDS = 0.004
"""A piece of work takes about half of it: some are cancelled before it begins, some after it has ended."""


async def prepared(database: Database, key: str) -> None:
    async with database.transaction() as session:
        await session.fetch(ADD, key=key)


async def in_a_session(database: Database, key: str) -> None:
    async with database.transaction() as session:
        await session.execute(text(ADD.sql.replace("$1", ":key")), {"key": key})


async def with_a_savepoint(database: Database, key: str) -> None:
    async with database.transaction() as session, session.begin_nested():
        await session.execute(text(ADD.sql.replace("$1", ":key")), {"key": key})


async def both(database: Database, key: str) -> None:
    async with database.transaction() as session:
        await session.fetch(ADD, key=key)
        await session.execute(text("SELECT 1"))


async def read(database: Database, key: str) -> None:
    async with database.read() as session:
        await session.execute(text("SELECT :key"), {"key": key})


async def on_the_drivers_connection(database: Database, key: str) -> None:
    async with database.driver() as connection, connection.transaction():
        await ADD.fetch(connection, key=key)


async def failing(database: Database, key: str) -> None:
    async with database.transaction() as session:
        await session.fetch(ADD, key=key)
        raise LookupError


type Work = Callable[[Database, str], Awaitable[None]]
WORK = [
    prepared,
    in_a_session,
    with_a_savepoint,
    both,
    read,
    on_the_drivers_connection,
    failing,
]


@asynccontextmanager
async def opened(settings: DatabaseSettings, **changes: float) -> AsyncIterator[Database]:
    """A pool of four, on a server that ends no idle transaction by itself."""
    limits = {"pool_size": 4, "max_overflow": 0, "idle_in_transaction_timeout": 300.0, **changes}
    pool = Database(settings.model_copy(update=limits), pool="cut-short", application_name="cut-short")
    try:
        yield pool
    finally:
        await pool.close()


async def no_backend_is_in_a_transaction(database: Database) -> None:
    """What the server says of every connection of the pool that was cut short, once no work holds any."""

    async def is_so() -> bool:
        async with database.read() as session:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cut-short' AND state <> 'idle'"
            return await session.scalar(text(query)) == 0

    await eventually(is_so)


async def cancelled_after(seconds: float, work: Awaitable[None]) -> None:
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().call_later(seconds, task.cancel)
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert outcome is None or isinstance(outcome, asyncio.CancelledError | LookupError), outcome


async def assert_fresh(pool: Database, way: str) -> None:
    """The transaction of whoever takes a connection now has begun since."""
    asked = datetime.now(UTC)
    async with getattr(pool, way)() as session:
        (row,) = await session.fetch(BEGAN)
        began = row["began"]
    assert began >= asked, way


@pytest.mark.parametrize(
    "mixed", [*([work] for work in WORK), WORK], ids=lambda mixed: f"{len(mixed)}-{mixed[0].__name__}"
)
async def test_cancelled_at_any_point_work_hands_no_open_transaction_on(
    database_settings: DatabaseSettings, database: Database, mixed: list[Work]
) -> None:
    chance = random.Random(20_240_607)
    async with opened(database_settings, pool_timeout=10) as pool:
        numbers = iter(range(CANCELLATIONS))

        async def keep_cancelling() -> None:
            for number in numbers:
                work = chance.choice(mixed)
                await cancelled_after(chance.uniform(0, LATEST_SECONDS), work(pool, f"{work.__name__}-{number}"))
                await assert_fresh(pool, chance.choice(["transaction", "read"]))

        await asyncio.gather(*(keep_cancelling() for _ in range(AT_ONCE)))
        await no_backend_is_in_a_transaction(database)


@pytest.mark.parametrize("work", WORK[:-1])
async def test_after_a_server_stood_still_no_connection_is_in_a_transaction(
    database_settings: DatabaseSettings, database: Database, work: Work
) -> None:
    """What was sent while it stood still, it does when it goes on: a BEGIN that was waited for in vain, too."""
    proxy = FreezingProxy(database_settings)
    async with (
        proxy.listening() as port,
        opened(database_settings, port=port, statement_timeout=0.1, pool_timeout=10) as pool,
    ):
        await asyncio.gather(*(work(pool, f"before-{number}") for number in range(4)))
        proxy.freeze()
        found = await asyncio.gather(*(work(pool, f"frozen-{number}") for number in range(4)), return_exceptions=True)
        assert {type(one) for one in found} <= {DatabaseUnreachable, TimeoutError}, found
        proxy.thaw()
        await no_backend_is_in_a_transaction(database)
        await asyncio.gather(*(work(pool, f"after-{number}") for number in range(4)))
        await no_backend_is_in_a_transaction(database)


async def test_a_health_check_that_was_given_up_leaves_no_transaction(
    database_settings: DatabaseSettings, database: Database
) -> None:
    proxy = FreezingProxy(database_settings)
    async with proxy.listening() as port:
        behind = database_settings.model_copy(update={"port": port})
        health = open_health_pool(behind, application_name="cut-short", passwords=lambda: behind.passwords)
        await health.ping()
        proxy.freeze()
        with pytest.raises((TimeoutError, PoolExhausted)):
            async with asyncio.timeout(0.1):
                await health.ping()
        proxy.thaw()
        await no_backend_is_in_a_transaction(database)
        await health.ping()
        await health.close()


@pytest.mark.parametrize("steps", range(12))
async def test_a_caller_cancelled_while_its_closed_connection_is_replaced_leaves_the_pool_its_size(
    database_settings: DatabaseSettings, steps: int
) -> None:
    async with opened(database_settings, pool_size=1, pool_timeout=2) as pool:
        async with pool.driver() as connection:
            connection.terminate()
        caller = asyncio.ensure_future(pool.ping())
        for _ in range(steps):
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        gc.disable()  # the garbage collector returns a lost entry to the pool, at a time that nobody knows
        try:
            await pool.ping()
        finally:
            gc.enable()
