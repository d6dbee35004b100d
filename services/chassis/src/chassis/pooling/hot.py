"""The driver's own connection in a transaction of the pool's, for the hot statements: those that most requests pay for.

The same pool, checks, limits and errors as a session's, without what SQLAlchemy does around each statement, which takes
longer than the statement. Everything else belongs in a session.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from chassis.logging import add_to_canonical_line
from chassis.pooling.engine import SERVER_GOES, note_statement
from chassis.statements import DriverStatement


class ConnectionLost(Exception):
    """The connection broke, or the server has said that it goes."""


@dataclass(frozen=True, slots=True)
class HotSession:
    """A transaction on the driver's connection; `info` is what a session's is, where `after_commit` keeps callbacks."""

    connection: asyncpg.Connection
    info: dict[Any, Any]

    async def fetch(self, statement: DriverStatement, **values: object) -> list[asyncpg.Record]:
        """The rows of a statement, which is measured like those of any session."""
        started, error_type = time.perf_counter(), ""
        try:
            return await statement.fetch(self.connection, **values)
        except Exception as error:
            error_type = getattr(error, "sqlstate", None) or type(error).__name__
            raise
        finally:
            note_statement(statement.sql, time.perf_counter() - started, error_type)


@asynccontextmanager
async def hot_transaction(pooled: PoolProxiedConnection, info: dict[Any, Any]) -> AsyncIterator[HotSession]:
    """A transaction that commits when the block ends, rolls back when it raises, and gives the connection back.

    Raises `ConnectionLost` when the server goes away in the middle.
    """
    connection = pooled.driver_connection
    assert isinstance(connection, asyncpg.Connection)  # noqa: S101  tells the type checker which driver it is
    try:
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield HotSession(connection, info)
        except BaseException:
            await transaction.rollback()
            raise
        started = time.perf_counter()
        await transaction.commit()
        add_to_canonical_line(db_ms=(time.perf_counter() - started) * 1000)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if getattr(error, "sqlstate", None) in SERVER_GOES:
            connection.terminate()
        if connection.is_closed():
            raise ConnectionLost from error
        raise
    finally:
        if connection.is_in_transaction():
            connection.terminate()  # a rollback that was cut short: nobody may go on in there
        await greenlet_spawn(pooled.close)
