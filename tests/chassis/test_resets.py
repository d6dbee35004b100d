"""Connections that are reset at any moment, on the event loop that processes run on: each loss has its own error."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine

import pytest
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.errors import DatabaseUnreachable, PoolExhausted
from chassis.pooling import Database, create_redis, create_shared_redis
from chassis.process.running import new_event_loop
from proxying import listening, pass_on
from redis.asyncio import Redis
from redis.exceptions import RedisError
from resetting_proxy import ResettingProxy
from sqlalchemy import text

pytestmark = pytest.mark.timeout(60)

SECONDS = 2.0
ENOUGH = 10
"""Resets that make a run worth something; there are some three hundred of Redis, forty of PostgreSQL."""

type Use = Callable[[], Awaitable[object]]


async def _use(use: Use, lost: type[Exception] | tuple[type[Exception], ...], counts: Counter[str]) -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        try:
            await use()
        except lost:
            counts["lost"] += 1
        else:
            counts["done"] += 1


async def _on_the_loop_of_processes(main: Callable[[], Coroutine[None, None, None]]) -> None:
    """The proxy turns on the test's loop meanwhile, so that a reset may come between any two steps of the client."""

    def run() -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())

    await asyncio.to_thread(run)


@pytest.mark.usefixtures("redis")
async def test_a_reset_of_redis_is_an_error_of_redis_for_every_kind_of_client(redis_settings: RedisSettings) -> None:
    proxy = ResettingProxy(host=redis_settings.host, port=redis_settings.port, pause=0.01)
    counts: Counter[str] = Counter()
    unhandled: list[str] = []

    async with proxy.listening() as port:
        settings = redis_settings.model_copy(update={"host": "127.0.0.1", "port": port})

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(str(context)))
            pooled, shared = create_redis(settings, timeout=5), create_shared_redis(settings, timeout=5)

            def transaction(client: Redis) -> Use:
                async def use() -> None:
                    async with client.pipeline(transaction=True) as pipeline:
                        pipeline.incr("n")
                        pipeline.get("n")
                        await pipeline.execute()

                return use

            uses: list[Use] = [
                lambda: pooled.set("x", "y"),
                lambda: pooled.xread({"stream": "$"}, block=5),
                lambda: shared.get("x"),
                transaction(pooled),
                transaction(shared),
            ]
            await asyncio.gather(*(_use(use, (RedisError, TimeoutError), counts) for use in uses * 2))
            await shared.aclose()
            await pooled.aclose()

        await _on_the_loop_of_processes(main)
    assert proxy.resets >= ENOUGH
    assert counts["done"] >= ENOUGH <= counts["lost"]
    assert unhandled == []


async def test_a_reset_of_postgresql_is_an_outage_for_every_kind_of_session(
    database_settings: DatabaseSettings,
) -> None:
    proxy = ResettingProxy(host=database_settings.host, port=database_settings.port, pause=0.1)
    counts: Counter[str] = Counter()
    unhandled: list[str] = []

    async with proxy.listening() as port:
        settings = database_settings.model_copy(update={"host": "127.0.0.1", "port": port})

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(str(context)))
            database = Database(settings, pool="test", application_name="reset")

            async def transaction() -> None:
                async with database.transaction() as session:
                    await session.execute(text("SELECT 1"))
                    await session.execute(text("SELECT 2"))

            async def prepared() -> None:
                async with database.transaction() as session:
                    await session.driver.fetchval("SELECT 1")

            await asyncio.gather(*(_use(use, PoolExhausted, counts) for use in [transaction, prepared, database.ping]))
            await database.close()

        await _on_the_loop_of_processes(main)
    assert proxy.resets >= ENOUGH
    assert counts["lost"] >= 1
    assert unhandled == []


@pytest.mark.parametrize("query", [b"pg_catalog.version", b"current_schema", b"show standard_conforming_strings"])
async def test_a_reset_during_the_first_queries_of_a_process_is_an_outage(
    database_settings: DatabaseSettings, query: bytes
) -> None:
    """SQLAlchemy asks the first server that it connects to what it can do."""

    async def reset_at_the_query(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            if query in data:
                sink.transport.abort()
                return
            sink.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(database_settings.host, database_settings.port)
        await pass_on(
            reset_at_the_query(reader, server_writer),
            reset_at_the_query(server_reader, writer),
            ends=(writer, server_writer),
        )

    async with listening(serve) as port:
        settings = database_settings.model_copy(update={"host": "127.0.0.1", "port": port})
        database = Database(settings, pool="test", application_name="first")
        with pytest.raises(DatabaseUnreachable):
            await database.ping()
        await database.close()
