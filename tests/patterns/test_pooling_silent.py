"""A server falls silent and closes nothing: whoever finds it out waits for a stated time, and not for ever."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from chassis.config.settings import DatabaseSettings
from chassis.errors import DatabaseUnreachable
from chassis.pooling import Database
from chassis.pooling.statements import DriverStatement
from freezing_proxy import FreezingProxy
from proxying import listening
from sqlalchemy import text
from waiting import eventually


@asynccontextmanager
async def opened(settings: DatabaseSettings, **changes: float) -> AsyncIterator[Database]:
    database = Database(settings.model_copy(update=changes), pool="silent", application_name="test-silent")
    try:
        yield database
    finally:
        await database.close()


async def idle() -> None:
    """For longer than a connection is trusted without being asked."""
    used = time.monotonic()

    async def has_idled() -> bool:
        return time.monotonic() > used + 0.6

    await eventually(has_idled)


async def test_a_server_that_has_fallen_silent_is_asked_no_longer_than_a_connection_is_waited_for(
    database_settings: DatabaseSettings,
) -> None:
    proxy = FreezingProxy(database_settings)
    async with (
        proxy.listening() as port,
        opened(database_settings, port=port, pool_timeout=0.1, connect_timeout=0.1, statement_timeout=30) as silent,
    ):
        await silent.ping()
        await idle()
        proxy.freeze()
        with pytest.raises(DatabaseUnreachable):
            # The library gives closing a connection 2 s. A statement would be waited for for 31.
            async with asyncio.timeout(15):
                await silent.ping()


async def test_a_connection_that_a_router_has_forgotten_is_replaced_before_anybody_gets_it(
    database_settings: DatabaseSettings,
) -> None:
    proxy = FreezingProxy(database_settings)
    async with proxy.listening() as port, opened(database_settings, port=port, pool_timeout=0.1) as forgotten:
        await forgotten.ping()
        await idle()
        proxy.forget()
        async with asyncio.timeout(15):
            await forgotten.ping()


@pytest.mark.parametrize("statement", ["prepared", "of SQLAlchemy"])
@pytest.mark.parametrize("kind", ["transaction", "read"])
async def test_a_statement_is_not_waited_for_for_ever_when_the_server_falls_silent(
    database_settings: DatabaseSettings, kind: str, statement: str
) -> None:
    proxy = FreezingProxy(database_settings)
    async with proxy.listening() as port, opened(database_settings, port=port, statement_timeout=0.1) as silent:

        async def ask() -> None:
            async with getattr(silent, kind)() as session:
                proxy.freeze()
                if statement == "prepared":
                    await session.fetch(DriverStatement.of("SELECT 1"))
                else:
                    await session.execute(text("SELECT 1"))

        with pytest.raises(DatabaseUnreachable):
            # statement_timeout and a second; the library gives closing a connection 2 s.
            async with asyncio.timeout(15):
                await ask()
        proxy.forget()
        await silent.ping()  # over another connection: nobody gets that one any more


async def test_a_server_that_falls_silent_before_a_rollback_is_an_outage_too(
    database_settings: DatabaseSettings,
) -> None:
    proxy = FreezingProxy(database_settings)
    async with proxy.listening() as port, opened(database_settings, port=port, statement_timeout=0.1) as silent:

        async def fail() -> None:
            async with silent.transaction() as session:
                await session.execute(text("SELECT 1"))
                proxy.freeze()
                raise LookupError

        with pytest.raises(DatabaseUnreachable):
            async with asyncio.timeout(15):
                await fail()


async def test_a_server_that_takes_connections_and_says_nothing_is_given_up(
    database_settings: DatabaseSettings,
) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(say_nothing) as port, opened(database_settings, port=port, connect_timeout=0.1) as mute:
        with pytest.raises(DatabaseUnreachable, match="TimeoutError"):
            async with asyncio.timeout(5):
                await mute.ping()
