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
    """Replace a connection whose backend has gone before a caller gets it.

    The driver knows when the server has closed a connection. It does not know when a router forgot the connection or a
    machine is gone. So a connection that was not used for `TRUSTED_SECONDS` is asked, within `seconds`.
    """

    def on_checkout(adapted: AdaptedConnection, record: ConnectionPoolEntry, _fairy: object) -> None:
        if adapted.driver_connection.is_closed() or adapted.driver_connection.is_in_transaction():
            raise DisconnectionError
        used_at = record.info.get(USED_AT)
        if used_at is not None and time.monotonic() - used_at > TRUSTED_SECONDS:
            try:
                adapted.run_async(partial(_ask, seconds=seconds))
            except Exception as error:  # the connection does not answer, for whatever reason
                raise InvalidatePoolError from error

    event.listen(engine, "checkout", on_checkout)


async def _ask(connection: asyncpg.Connection, *, seconds: float) -> None:
    await connection.execute("SELECT 1", timeout=seconds)  # the simple protocol: one round trip, nothing prepared
