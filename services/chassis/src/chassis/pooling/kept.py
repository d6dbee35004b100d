"""Connections that hot transactions hand on to each other: SQLAlchemy's pool takes as long to give one as a statement.

They stay checked out of the pool, which therefore knows of each; sessions get one back when they need it. What the pool
does at a checkout (is the backend there, is the connection too old) is done once in `_KEPT_SECONDS` instead.
"""

import time
from dataclasses import dataclass

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection, QueuePool
from sqlalchemy.util import greenlet_spawn

from chassis.pooling.engine import TRUSTED_SECONDS

_KEPT_SECONDS = 1.0
"""Since the pool gave it: a hundred transactions, and soon enough for whatever the pool looks at."""


@dataclass(slots=True)
class Kept:
    """A connection of the pool's. `taken_at` and `used_at` are in seconds, monotonic."""

    pooled: PoolProxiedConnection
    connection: asyncpg.Connection
    taken_at: float
    used_at: float

    def is_good(self, now: float) -> bool:
        """Whether the next transaction may have it as it is."""
        return (
            now - self.used_at < TRUSTED_SECONDS
            and now - self.taken_at < _KEPT_SECONDS
            and not self.connection.is_closed()
        )


class KeptConnections:
    """Those of one engine that nobody uses now, the one used last at the end."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._idle: list[Kept] = []

    def __len__(self) -> int:
        return len(self._idle)

    async def take(self) -> Kept:
        """One for a transaction, which gives it to `keep` afterwards. Raises what the pool raises."""
        while self._idle:
            kept = self._idle.pop()
            if kept.is_good(time.monotonic()):
                return kept
            await _give_back(kept)
        pooled = await self._engine.raw_connection()
        connection = pooled.driver_connection
        assert isinstance(connection, asyncpg.Connection)  # noqa: S101  tells the type checker which driver it is
        now = time.monotonic()
        return Kept(pooled, connection, taken_at=now, used_at=now)

    async def keep(self, kept: Kept) -> None:
        """For the next transaction, unless it is broken: then the pool opens another."""
        if kept.connection.is_closed():
            await _give_back(kept)
        else:
            kept.used_at = time.monotonic()
            self._idle.append(kept)

    async def make_room(self) -> None:
        """Let the pool have one, if it has none left for who asks it next."""
        pool = self._engine.pool
        assert isinstance(pool, QueuePool)  # noqa: S101  tells the type checker what create_engine chose
        if self._idle and not pool.checkedin():
            await _give_back(self._idle.pop(0))

    async def close(self) -> None:
        """Let the pool have all."""
        while self._idle:
            await _give_back(self._idle.pop())


async def _give_back(kept: Kept) -> None:
    await greenlet_spawn(kept.pooled.close)
