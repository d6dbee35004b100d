"""Connections are taken late, given back early, never waited for long, and replaced when the server drops them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
from chassis.errors import DatabaseBusy, DatabaseUnreachable, ErrorCode, PoolExhausted
from chassis.logging import canonical_line
from chassis.pooling import Database, after_commit, create_redis, log_after_commit
from chassis.settings import DatabaseSettings, RedisSettings
from holdfast_local.ports import free_port
from prometheus_client import REGISTRY
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
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


async def test_what_is_given_to_after_commit_runs_once_and_only_after_the_commit(database: Database) -> None:
    happened: list[str] = []
    note = partial(happened.append, "told")
    async with database.transaction() as session:
        after_commit(session, note)
        after_commit(session, note)
        await session.execute(text("SELECT 1"))
        assert happened == []
    assert happened == ["told"]


async def test_what_is_given_to_after_commit_never_runs_after_a_rollback(database: Database) -> None:
    happened: list[str] = []
    with suppress(LookupError):
        async with database.transaction() as session:
            after_commit(session, partial(happened.append, "told"))
            raise LookupError
    assert happened == []


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


async def test_redis_is_waited_for_no_longer_than_its_time_out(redis_settings: RedisSettings) -> None:
    impatient = create_redis(redis_settings.model_copy(update={"max_connections": 1}), timeout=0.05)
    try:
        async with asyncio.timeout(2):
            with pytest.raises(RedisTimeoutError):  # the server says nothing
                await impatient.blpop(["nothing"], timeout=0)
            async with impatient.client():
                with pytest.raises(RedisConnectionError):  # the only connection is in use
                    await impatient.ping()
            assert await impatient.ping()
    finally:
        await impatient.aclose()


async def test_a_redis_pool_tells_of_its_connections(redis_settings: RedisSettings) -> None:
    def told(metric: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"db_client_connection_{metric}", {"pool": "measured", **labels}) or 0

    redis = create_redis(redis_settings.model_copy(update={"max_connections": 2}), timeout=0.5, pool="measured")
    try:
        await redis.ping()
        assert (told("count", state="used"), told("count", state="idle")) == (0, 1)
        async with redis.client(), redis.client():
            assert (told("count", state="used"), told("count", state="idle")) == (2, 0)
            waiting = asyncio.create_task(redis.ping())
            await asyncio.sleep(0)
            assert told("pending_requests") == 1
            with pytest.raises(RedisConnectionError):
                await waiting
        assert (told("count", state="used"), told("count", state="idle")) == (0, 2)
        assert (told("max"), told("timeouts_total"), told("pending_requests")) == (2, 1, 0)
        assert told("wait_time_seconds_count") == 4
    finally:
        await redis.aclose()


async def test_a_redis_that_is_away_is_no_time_out_of_the_pool(redis_settings: RedisSettings) -> None:
    redis = create_redis(redis_settings.model_copy(update={"port": free_port()}), timeout=0.05, pool="gone")
    with pytest.raises(RedisConnectionError):
        await redis.ping()
    assert REGISTRY.get_sample_value("db_client_connection_timeouts_total", {"pool": "gone"}) == 0
    assert REGISTRY.get_sample_value("db_client_connection_count", {"pool": "gone", "state": "used"}) == 0
    await redis.aclose()


async def test_a_line_about_a_change_is_written_when_it_has_committed_and_never_otherwise(database: Database) -> None:
    lines: list[tuple[str, int]] = []

    def write(event: str, *, order: int) -> None:
        lines.append((event, order))

    async def change(order: int, failure: Exception | None) -> None:
        async with database.transaction() as session:
            log_after_commit(session, write, "order_moved", order=order)
            assert lines == []
            if failure:
                raise failure

    with pytest.raises(LookupError):
        await change(1, LookupError())
    assert lines == []
    await change(2, None)
    assert lines == [("order_moved", 2)]
