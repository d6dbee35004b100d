"""Replaces, for most transactions, the steps in which SQLAlchemy's pool hands out a connection and takes it back. Each
of these two steps starts a greenlet, which costs CPU time.

After a transaction, this module keeps the connection for the next transaction. For SQLAlchemy's pool the connection is
still in use, and counts against the pool's limit. A connection that the pool handed out `RETURN_SECONDS` ago goes back
to the pool before its next use. The pool then checks that the server still answers and that the connection is not too
old.
"""

import time
from dataclasses import dataclass

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

TRUSTED_SECONDS = 0.5
"""If a connection was used less than this many seconds ago, its next use needs no check that the server still answers.
A busy pool uses each connection more often, so it sends no checks. HikariCP, a pool for Java, has the same rule.
"""
USED_AT = "chassis.used_at"
"""The key under which `info`, SQLAlchemy's dictionary for data about a connection, has the time of the last use."""
RETURN_SECONDS = 1.0
"""A connection that this module has kept for this many seconds goes back to SQLAlchemy's pool, which checks the
connection. A busy connection runs about a hundred transactions in this time, so the checks cost little.
"""


@dataclass(slots=True)
class Borrowed:
    """One connection as three objects: `pooled` for SQLAlchemy's pool, `connection` for SQLAlchemy's statements, and
    `driver`, the driver's (asyncpg's) connection.

    `taken_at` and `used_at` are in seconds of the monotonic clock.
    """

    pooled: PoolProxiedConnection
    connection: AsyncConnection
    driver: asyncpg.Connection
    taken_at: float
    used_at: float

    def is_good(self, now: float, *, return_after: float) -> bool:
        """Whether the next transaction may use the connection without the pool's checks."""
        return (
            now - self.used_at < TRUSTED_SECONDS and now - self.taken_at < return_after and not self.driver.is_closed()
        )


class IdleConnections:
    """The idle connections of one SQLAlchemy engine, in the order of their last use.

    A connection that the pool handed out `return_after` seconds ago or earlier goes back to the pool before its next
    use.
    """

    def __init__(self, engine: AsyncEngine, *, return_after: float = RETURN_SECONDS) -> None:
        self._engine = engine
        self._return_after = return_after
        self._idle: list[Borrowed] = []

    def __len__(self) -> int:
        return len(self._idle)

    async def take(self) -> Borrowed:
        """A connection for one transaction. The caller passes the connection to `keep` after the transaction.

        Raises the errors of SQLAlchemy's pool.
        """
        while self._idle:
            borrowed = self._idle.pop()
            if borrowed.is_good(time.monotonic(), return_after=self._return_after):
                return borrowed
            await _give_back(borrowed)
        pooled = await self._engine.raw_connection()
        driver = pooled.driver_connection
        assert isinstance(driver, asyncpg.Connection)  # noqa: S101  tells the type checker that the driver is asyncpg
        connection = AsyncConnection(self._engine, Connection(self._engine.sync_engine, pooled))
        now = time.monotonic()
        return Borrowed(pooled, connection, driver, taken_at=now, used_at=now)

    async def keep(self, borrowed: Borrowed) -> None:
        """Store the connection for the next transaction. A closed connection goes to the pool, which opens another."""
        if borrowed.driver.is_closed():
            await _give_back(borrowed)
        else:
            borrowed.used_at = time.monotonic()
            self._idle.append(borrowed)

    async def close(self) -> None:
        """Return all idle connections to the pool."""
        while self._idle:
            await _give_back(self._idle.pop())


async def _give_back(borrowed: Borrowed) -> None:
    borrowed.pooled.info[USED_AT] = borrowed.used_at
    await greenlet_spawn(borrowed.pooled.close)
