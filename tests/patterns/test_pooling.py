"""Connections are taken late, given back early, never waited for long, and replaced when the server drops them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import pytest
from chassis.config.settings import DatabaseSettings
from chassis.errors import DatabaseBusy, DatabaseUnreachable, ErrorCode, PoolExhausted
from chassis.logging import canonical_line
from chassis.pooling import Database, Session, open_health_pool
from holdfast_local.ports import free_port
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from waiting import eventually

REQUESTS = 8


@asynccontextmanager
async def opened(settings: DatabaseSettings, *, pool: str = "small", **changes: float) -> AsyncIterator[Database]:
    database = Database(settings.model_copy(update=changes), pool=pool, application_name=f"test-{pool}")
    try:
        yield database
    finally:
        await database.close()


def used(pool: str) -> float | None:
    return REGISTRY.get_sample_value("db_client_connection_count", {"pool": pool, "state": "used"})


async def backends(database: Database, application_name: str) -> int:
    async with database.read() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name"
        return int(await session.scalar(text(query), {"name": application_name}) or 0)


@asynccontextmanager
async def all_connections_held(database: Database, count: int) -> AsyncIterator[None]:
    """`count` tasks hold a connection each until the block ends."""
    release = asyncio.Event()
    held = asyncio.Semaphore(0)

    async def hold() -> None:
        async with database.read():
            held.release()
            await release.wait()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(hold())
        for _ in range(count):
            await held.acquire()
        try:
            yield
        finally:
            release.set()


async def test_an_exhausted_pool_refuses_within_its_time_out(database_settings: DatabaseSettings) -> None:
    before = REGISTRY.get_sample_value("db_client_connection_timeouts_total", {"pool": "full"}) or 0
    async with opened(database_settings, pool="full", pool_size=1, max_overflow=1, pool_timeout=0.1) as database:
        async with all_connections_held(database, 2):
            async with asyncio.timeout(1):  # ten times the time-out; the library's own would be 30 s
                with pytest.raises(PoolExhausted) as refused:
                    async with database.transaction():
                        pytest.fail("there was no connection to be had")
        assert refused.value.code is ErrorCode.OVERLOADED
        assert refused.value.code.value.retry_after
        assert "full" not in refused.value.message  # a stranger is told of no pool
        assert "pool full" in str(refused.value)
        async with database.read() as session:  # and with connections back, it works again
            assert await session.scalar(text("SELECT 1")) == 1
    assert REGISTRY.get_sample_value("db_client_connection_timeouts_total", {"pool": "full"}) == before + 1


async def test_a_waiter_gets_the_connection_that_is_given_back(database_settings: DatabaseSettings) -> None:
    async with opened(database_settings, pool_size=1, max_overflow=0, pool_timeout=2) as database:

        async def ask() -> int:
            async with database.read() as session:
                return int(await session.scalar(text("SELECT 1")) or 0)

        async with all_connections_held(database, 1):
            waiting = asyncio.create_task(ask())
        assert await waiting == 1


async def test_never_more_connections_than_the_pool_may_open(
    database_settings: DatabaseSettings, database: Database
) -> None:
    async with opened(database_settings, pool="bounded", pool_size=2, max_overflow=1, pool_timeout=2) as bounded:

        async def sleep() -> None:
            async with bounded.read() as session:
                await session.execute(text("SELECT pg_sleep(0.02)"))

        await asyncio.gather(*(sleep() for _ in range(REQUESTS)))
        async with all_connections_held(bounded, 3):
            assert await backends(database, "test-bounded") == 3


async def test_no_connection_is_held_after_the_block(database_settings: DatabaseSettings) -> None:
    async with opened(database_settings, pool="gauge") as database:
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
            assert used("gauge") == 1
        assert used("gauge") == 0
        with pytest.raises(DBAPIError):
            async with database.read() as session:
                await session.execute(text("SELECT 1/0"))
        assert used("gauge") == 0


async def test_a_connection_held_across_a_call_keeps_everybody_else_waiting(
    database_settings: DatabaseSettings,
) -> None:
    """The version that goes wrong, and beside it the same work with the call outside the block."""

    async def call_inside(database: Database, called: asyncio.Semaphore, answered: asyncio.Event) -> None:
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
            called.release()
            await answered.wait()

    async def call_outside(database: Database, called: asyncio.Semaphore, answered: asyncio.Event) -> None:
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
        called.release()
        await answered.wait()

    async def refused(work: Callable[[Database, asyncio.Semaphore, asyncio.Event], Coroutine[None, None, None]]) -> int:
        """How many of the requests beside two slow calls found no connection."""
        called, answered = asyncio.Semaphore(0), asyncio.Event()
        async with opened(database_settings, pool_size=2, max_overflow=0, pool_timeout=0.05) as database:
            slow = [asyncio.create_task(work(database, called, answered)) for _ in range(2)]
            for _ in slow:
                await called.acquire()
            others = await asyncio.gather(*(database.ping() for _ in range(2)), return_exceptions=True)
            answered.set()
            await asyncio.gather(*slow)
        return sum(isinstance(other, PoolExhausted) for other in others)

    assert await refused(call_inside) == 2
    assert await refused(call_outside) == 0


async def test_a_cancelled_request_gives_its_connection_back(database_settings: DatabaseSettings) -> None:
    async with opened(database_settings, pool="cancelled", pool_size=1, max_overflow=0) as database:
        working = asyncio.Event()

        async def work() -> None:
            async with database.transaction() as session:
                await session.execute(text("SELECT 1"))
                working.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await working.wait()
        task.cancel()
        await asyncio.wait({task})
        assert used("cancelled") == 0
        await database.ping()


async def test_work_is_rolled_back_when_the_block_raises(database: Database) -> None:
    insert = text("INSERT INTO idempotency_record VALUES ('c', 'k', ''::bytea, 200, ''::bytea)")
    with suppress(LookupError):
        async with database.transaction() as session:
            await session.execute(insert)
            raise LookupError
    async with database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM idempotency_record")) == 0
    async with database.transaction() as session:
        await session.execute(insert)
    async with database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM idempotency_record")) == 1


async def test_the_server_ends_a_statement_that_takes_too_long(database_settings: DatabaseSettings) -> None:
    async with opened(database_settings, statement_timeout=0.1, lock_timeout=0.05) as database:
        with pytest.raises(DatabaseBusy, match="statement timeout") as refused:
            async with asyncio.timeout(2), database.read() as session:
                await session.execute(text("SELECT pg_sleep(10)"))
        assert (refused.value.code, refused.value.retry_after) == (ErrorCode.OVERLOADED, 1)
        await database.ping()  # the connection survives its statement


async def test_the_server_ends_a_transaction_that_idles(
    database_settings: DatabaseSettings, database: Database
) -> None:
    async def is_gone() -> bool:
        return await backends(database, "test-idle") == 0

    async with opened(database_settings, pool="idle", idle_in_transaction_timeout=0.05) as idling:
        with suppress(DatabaseUnreachable):
            async with idling.transaction() as session:
                await session.execute(text("SELECT 1"))
                await eventually(is_gone)
                await session.execute(text("SELECT 1"))
                pytest.fail("its transaction went on")
        await idling.ping()


async def test_a_lock_is_not_waited_for_longer_than_its_time_out(database_settings: DatabaseSettings) -> None:
    async with opened(database_settings, lock_timeout=0.05) as database, database.transaction() as holder:
        await holder.execute(text("LOCK TABLE idempotency_record IN ROW EXCLUSIVE MODE"))
        with pytest.raises(DatabaseBusy, match="lock timeout"):
            async with database.transaction() as other:
                await other.execute(text("LOCK TABLE idempotency_record IN SHARE MODE"))


async def test_requests_after_all_backends_were_killed_do_not_notice(
    database_settings: DatabaseSettings, database: Database
) -> None:
    async with opened(database_settings, pool="killed", pool_size=3, max_overflow=0) as killed:
        async with all_connections_held(killed, 3):
            pass
        async with database.read() as session:
            await session.execute(
                text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = :name"),
                {"name": "test-killed"},
            )

        async def ask() -> int:
            async with killed.transaction() as session:
                return int(await session.scalar(text("SELECT 1")) or 0)

        assert await asyncio.gather(*(ask() for _ in range(REQUESTS))) == [1] * REQUESTS


async def test_a_connection_is_tried_before_use_when_it_idled_and_not_while_it_is_busy(
    database_settings: DatabaseSettings, database: Database
) -> None:
    """What nobody was told of, such as a server whose machine is gone, is only found by asking."""

    async def asked_at() -> object:
        async with database.read() as session:
            query = "SELECT query_start FROM pg_stat_activity WHERE application_name = 'test-tried'"
            return await session.scalar(text(query))

    async with opened(database_settings, pool="tried") as tried:

        async def is_asked() -> bool:
            """Whether a checkout that sends nothing itself makes the server hear something."""
            before = await asked_at()
            async with tried.read():
                pass
            return await asked_at() != before

        async def is_trusted() -> bool:
            return not await is_asked()

        await tried.ping()
        await eventually(is_trusted)  # at once, but on a machine that takes half a second for two statements
        used = time.monotonic()

        async def has_idled() -> bool:
            return time.monotonic() > used + 0.6

        await eventually(has_idled)
        assert await is_asked()


async def test_the_connection_used_last_is_used_first(database_settings: DatabaseSettings) -> None:
    async def backend(session: Session) -> int:
        return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)

    async with opened(database_settings, pool_size=2, max_overflow=0) as database:
        async with database.read() as outer, database.read() as inner:
            first, last = await backend(inner), await backend(outer)
        assert first != last
        for _ in range(3):
            async with database.read() as session:
                assert await backend(session) == last


async def test_a_connection_is_replaced_when_it_is_old(database_settings: DatabaseSettings) -> None:
    async def backend(database: Database) -> object:
        async with database.read() as session:
            return await session.scalar(text("SELECT pg_backend_pid()"))

    async with opened(database_settings, pool_recycle=0) as database:
        assert await backend(database) != await backend(database)


async def test_no_error_repeats_the_values_of_its_statement(database: Database) -> None:
    with pytest.raises(DBAPIError) as failed:
        async with database.read() as session:
            await session.execute(text("SELECT 1/(length(:secret) - 7)"), {"secret": "hunter2"})
    assert "hunter2" not in str(failed.value)


async def test_health_has_one_connection(database_settings: DatabaseSettings) -> None:
    health = open_health_pool(database_settings, application_name="test", passwords=lambda: database_settings.passwords)
    for metric in ("max", "idle_max"):
        assert REGISTRY.get_sample_value(f"db_client_connection_{metric}", {"pool": "health"}) == 1
    await health.close()


@pytest.mark.parametrize("enter", ["transaction", "read"])
async def test_a_connection_lost_in_the_middle_is_an_outage_not_a_failure(
    database_settings: DatabaseSettings, database: Database, enter: str
) -> None:
    async def lose_it(lost: Database) -> None:
        async with getattr(lost, enter)() as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            async with database.read() as other:
                await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            await session.execute(text("SELECT 1"))

    async with opened(database_settings, pool="lost", pool_size=1, max_overflow=0) as lost:
        with pytest.raises(DatabaseUnreachable) as raised:
            await lose_it(lost)
        assert raised.value.code.value.status == 503
        assert raised.value.code.value.retry_after
        async with lost.read() as session:
            assert await session.scalar(text("SELECT 1")) == 1


async def test_a_backend_that_says_it_goes_is_lost_while_its_socket_is_still_open(database: Database) -> None:
    with pytest.raises(DatabaseUnreachable):
        async with database.read() as session:
            await session.execute(text("DO $$ BEGIN RAISE 'terminating' USING ERRCODE = '57P01'; END $$"))
    await database.ping()


async def test_a_mistake_in_a_statement_is_no_outage(database: Database) -> None:
    with pytest.raises(ProgrammingError):
        async with database.read() as session:
            await session.execute(text("SELECT nonsense"))


async def test_a_database_that_is_away_is_answered_503_not_500(database_settings: DatabaseSettings) -> None:
    async with opened(database_settings, port=free_port()) as database:
        with pytest.raises(DatabaseUnreachable) as away:
            await database.ping()
    assert away.value.message == "The database cannot be used now."  # a stranger is told of no pool and no driver
    assert "pool small: ConnectionRefusedError" in str(away.value)
    assert away.value.code.value.status == 503
    assert away.value.code.value.retry_after
    assert isinstance(away.value, PoolExhausted)  # jobs and consumers wait both out


async def test_sessions_speak_utc_and_carry_their_name(database: Database) -> None:
    async with database.read() as session:
        assert await session.scalar(text("SHOW timezone")) == "UTC"
        assert await session.scalar(text("SHOW application_name")) == "test"


async def test_what_the_database_cost_stands_on_the_canonical_line(database: Database) -> None:
    with canonical_line() as fields:
        async with database.transaction() as session:
            await session.execute(text("SELECT pg_sleep(0.02)"))
            await session.execute(text("SELECT 1"))
        with pytest.raises(DBAPIError):
            async with database.read() as session:
                await session.execute(text("SELECT 1/0"))
    assert fields["db_queries"] == 3
    assert fields["db_ms"] >= 20
    assert "pool_wait_ms" in fields
