"""Replaces SQLAlchemy's checkout and return of a connection, which start a greenlet each, for most transactions.

A connection stays checked out of SQLAlchemy's pool between two transactions, so the pool's limit still holds. The pool
sees it again once in `RETURN_SECONDS`, and then makes its own checks: is the backend there, is the connection too old.
"""

import time
from dataclasses import dataclass

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

TRUSTED_SECONDS = 0.5
"""After its last use a connection is trusted for so long, as HikariCP does: a busy pool asks nobody."""
USED_AT = "chassis.used_at"
"""The key of a connection's last use, in its `info`."""
RETURN_SECONDS = 1.0
"""A hundred transactions, and soon enough for the checks of the pool."""


@dataclass(slots=True)
class Borrowed:
    """A connection as the pool has it, as a session takes it, and the driver's own. Times are in seconds, monotonic."""

    pooled: PoolProxiedConnection
    connection: AsyncConnection
    driver: asyncpg.Connection
    taken_at: float
    used_at: float

    def is_good(self, now: float, *, return_after: float) -> bool:
        """Whether the next transaction may have it as it is."""
        return (
            now - self.used_at < TRUSTED_SECONDS and now - self.taken_at < return_after and not self.driver.is_closed()
        )


class IdleConnections:
    """The connections of one engine that nothing uses now. The one that was used last is at the end.

    Each of them goes back to the pool `return_after` seconds after the pool gave it.
    """

    def __init__(self, engine: AsyncEngine, *, return_after: float = RETURN_SECONDS) -> None:
        self._engine = engine
        self._return_after = return_after
        self._idle: list[Borrowed] = []

    def __len__(self) -> int:
        return len(self._idle)

    async def take(self) -> Borrowed:
        """One for a transaction, which gives it to `keep` afterwards. Raises what the pool raises."""
        while self._idle:
            borrowed = self._idle.pop()
            if borrowed.is_good(time.monotonic(), return_after=self._return_after):
                return borrowed
            await _give_back(borrowed)
        pooled = await self._engine.raw_connection()
        driver = pooled.driver_connection
        assert isinstance(driver, asyncpg.Connection)  # noqa: S101  tells the type checker which driver it is
        connection = AsyncConnection(self._engine, Connection(self._engine.sync_engine, pooled))
        now = time.monotonic()
        return Borrowed(pooled, connection, driver, taken_at=now, used_at=now)

    async def keep(self, borrowed: Borrowed) -> None:
        """For the next transaction. A closed one goes back to the pool, which opens another."""
        if borrowed.driver.is_closed():
            await _give_back(borrowed)
        else:
            borrowed.used_at = time.monotonic()
            self._idle.append(borrowed)

    async def close(self) -> None:
        """Give all of them back to the pool."""
        while self._idle:
            await _give_back(self._idle.pop())


async def _give_back(borrowed: Borrowed) -> None:
    borrowed.pooled.info[USED_AT] = borrowed.used_at
    await greenlet_spawn(borrowed.pooled.close)
