"""The driver's own connection in a transaction of the pool's, for the hot statements: those that most requests pay for.

The same pool, checks, limits and errors as a session's, without what SQLAlchemy does around each statement, which takes
longer than the statement. Everything else belongs in a session, where `execute_in` takes a single hot statement along.
"""

import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.logging import add_to_canonical_line
from chassis.pooling.engine import SERVER_GOES, ConnectionLost, note_statement
from chassis.statements import DriverStatement

_DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_BEGIN = text("SELECT 1")
"""SQLAlchemy begins a transaction with the first statement of its own."""


@dataclass(frozen=True, slots=True)
class HotSession:
    """A transaction on the driver's connection; `info` is what a session's is, where `after_commit` keeps callbacks."""

    connection: asyncpg.Connection
    info: dict[Any, Any]

    async def fetch(self, statement: DriverStatement, **values: object) -> list[asyncpg.Record]:
        """The rows of a statement, which is measured like those of any session."""
        return await _measured(statement, statement.fetch(self.connection, **values))


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
        return await _measured(statement, statement.execute(connection, **values))
    except _DRIVER_ERRORS as error:
        if _is_lost(connection, error):
            outer.invalidate(error)
            raise ConnectionLost from error
        raise


async def _measured[T](statement: DriverStatement, running: Coroutine[Any, Any, T]) -> T:
    started, error_type = time.perf_counter(), ""
    try:
        return await running
    except Exception as error:
        error_type = getattr(error, "sqlstate", None) or type(error).__name__
        raise
    finally:
        note_statement(statement.sql, time.perf_counter() - started, error_type)


def _is_lost(connection: asyncpg.Connection, error: BaseException) -> bool:
    return connection.is_closed() or getattr(error, "sqlstate", None) in SERVER_GOES


class hot_transaction:  # noqa: N801  used as `async with hot_transaction(connection, info) as session:`
    """A transaction that commits when the block ends and rolls back when it raises.

    Raises `ConnectionLost` when the server goes away in the middle. Nobody may go on in a transaction: whatever is cut
    short leaves a closed connection behind.
    """

    __slots__ = ("_connection", "_info")

    def __init__(self, connection: asyncpg.Connection, info: dict[Any, Any]) -> None:
        self._connection = connection
        self._info = info

    async def __aenter__(self) -> HotSession:
        with _cut_short(self._connection):
            await self._connection.execute("BEGIN")
        return HotSession(self._connection, self._info)

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        with _cut_short(self._connection):
            if error is not None:
                await self._connection.execute("ROLLBACK")
                raise error
            started = time.perf_counter()
            await self._connection.execute("COMMIT")
            add_to_canonical_line(db_ms=(time.perf_counter() - started) * 1000)


class _cut_short:  # noqa: N801
    """What becomes of the connection, and of the error, when the block raises."""

    __slots__ = ("_connection",)

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        is_lost = isinstance(error, _DRIVER_ERRORS) and _is_lost(self._connection, error)
        if is_lost or (not self._connection.is_closed() and self._connection.is_in_transaction()):
            self._connection.terminate()
        if is_lost:
            raise ConnectionLost from error
