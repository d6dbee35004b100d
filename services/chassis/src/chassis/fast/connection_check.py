"""Replaces SQLAlchemy's pre-ping, which takes three round trips before each use of a connection."""

import time
from functools import partial

import asyncpg
from sqlalchemy import Engine, event
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from chassis.fast.idle_connections import TRUSTED_SECONDS, USED_AT


def try_before_use(engine: Engine, *, seconds: float) -> None:
    """Make the pool of `engine` check each connection before the pool hands the connection out. The pool replaces a
    broken connection.

    The driver (asyncpg) notices when the server closes a connection. The driver does not notice when a router drops the
    connection or the server's machine fails. So the server has to answer a query within `seconds` if the connection was
    idle for more than `TRUSTED_SECONDS`.

    SQLAlchemy closes a connection after a `DisconnectionError`. If the caller is cancelled at that moment, SQLAlchemy
    never returns the connection's entry to the pool, and the pool becomes one connection smaller. So this check closes
    the connection itself, and then raises the error. If the caller is cancelled during this check, SQLAlchemy returns
    the entry to the pool.
    """

    def on_checkout(adapted: AdaptedConnection, record: ConnectionPoolEntry, _fairy: object) -> None:
        if adapted.driver_connection.is_closed() or adapted.driver_connection.is_in_transaction():
            record.invalidate()
            raise DisconnectionError
        used_at = record.info.get(USED_AT)
        if used_at is not None and time.monotonic() - used_at > TRUSTED_SECONDS:
            try:
                adapted.run_async(partial(_ask, seconds=seconds))
            except Exception as error:  # any error means that the connection does not answer
                record.invalidate(error)
                raise InvalidatePoolError from error

    event.listen(engine, "checkout", on_checkout)


async def _ask(connection: asyncpg.Connection, *, seconds: float) -> None:
    # For a query without parameters, the driver uses PostgreSQL's simple protocol: the driver prepares no statement, so
    # the query takes only one round trip.
    await connection.execute("SELECT 1", timeout=seconds)
