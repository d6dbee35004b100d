"""The driver's own connection in a transaction of the pool's, for the hot statements: those that most requests pay for.

The same pool, checks, limits and errors as a session's, without what SQLAlchemy does around each statement, which takes
longer than the statement. Everything else belongs in a session, where `execute_in` takes a single hot statement along.
"""

import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.logging import add_to_canonical_line
from chassis.pooling.engine import note_statement
from chassis.pooling.failures import ConnectionLost, is_session_over
from chassis.pooling.statements import DriverStatement

_ROLLBACK_ERRORS = (ConnectionLost, asyncpg.PostgresError, asyncpg.InterfaceError)
"""The connection is closed then, which rolls back as well; the block's own error is the one to know."""
_BEGIN = text("SELECT 1")
"""SQLAlchemy begins a transaction with the first statement of its own."""


@dataclass(frozen=True, slots=True)
class HotSession:
    """A transaction on the driver's connection; `info` is what a session's is, where `after_commit` keeps callbacks."""

    connection: asyncpg.Connection
    info: dict[Any, Any]

    async def fetch(self, statement: DriverStatement, **values: object) -> list[asyncpg.Record]:
        """The rows of a statement, which is measured like those of any session."""
        return await _measured(self.connection, statement, statement.fetch(self.connection, **values))


async def execute_in(session: AsyncSession, statement: DriverStatement, **values: object) -> int:
    """Run a hot statement in the transaction of a session from `Database.transaction`; how many rows it added.

    What the driver raises is not wrapped. Raises `ConnectionLost` when the server goes away; the session then ends
    without it.
    """
    outer = session.sync_session.connection()  # it is connected: there is nothing to wait for
    connection = outer.connection.driver_connection
    assert isinstance(connection, asyncpg.Connection)  # noqa: S101  tells the type checker which driver it is
    if not connection.is_in_transaction():
        await session.execute(_BEGIN)
    try:
        return await _measured(connection, statement, statement.execute(connection, **values))
    except ConnectionLost as error:
        outer.invalidate(error)
        raise


async def _measured[T](
    connection: asyncpg.Connection, statement: DriverStatement, running: Coroutine[Any, Any, T]
) -> T:
    """Raises `ConnectionLost`, with a connection that is closed, for whatever leaves it in a state nobody knows."""
    started, error_type = time.perf_counter(), ""
    try:
        return await running
    except Exception as error:
        error_type = getattr(error, "sqlstate", None) or type(error).__name__
        if connection.is_closed() or is_session_over(error):
            connection.terminate()
            raise ConnectionLost(str(error) or type(error).__name__) from error
        raise
    finally:
        note_statement(statement.sql, time.perf_counter() - started, error_type)


class hot_transaction:  # noqa: N801  used as `async with hot_transaction(connection, info) as session:`
    """A transaction that commits when the block ends and rolls back when it raises.

    Raises `ConnectionLost` when the server goes away or falls silent. It leaves the connection either outside any
    transaction or closed: one whose BEGIN was cut short may be in a transaction, and the driver does not know it.
    """

    __slots__ = ("_connection", "_info")

    def __init__(self, connection: asyncpg.Connection, info: dict[Any, Any]) -> None:
        self._connection = connection
        self._info = info

    async def __aenter__(self) -> HotSession:
        await self._run("BEGIN")
        return HotSession(self._connection, self._info)

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            started = time.perf_counter()
            await self._run("COMMIT")
            add_to_canonical_line(db_ms=(time.perf_counter() - started) * 1000)
        elif not self._connection.is_closed():
            with suppress(*_ROLLBACK_ERRORS):
                await self._run("ROLLBACK")

    async def _run(self, statement: str) -> None:
        try:
            await self._connection.execute(statement)
        except BaseException as error:
            self._connection.terminate()
            if is_session_over(error):
                raise ConnectionLost(str(error) or type(error).__name__) from error
            raise
