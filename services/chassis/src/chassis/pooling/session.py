"""The session of a transaction: SQLAlchemy's, which also runs the driver's prepared statements.

SQLAlchemy is for models and queries. A statement that most requests run goes to the driver, which prepares it once per
connection. Both run on one connection, in one transaction.
"""

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from chassis.errors import HoldfastError
from chassis.fast.one_statement import in_one_statement
from chassis.logging import add_to_canonical_line
from chassis.pooling.engine import note_statement
from chassis.pooling.failures import ConnectionLost, is_session_over
from chassis.pooling.statements import DriverStatement

NOTIFY = "chassis.notify"
"""The key in a session's `info` of its database's `notify`."""
_AFTER_COMMIT = "chassis.after_commit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row to insert: the statement that inserts it, and the statement's values.

    `taken` says by the name of a unique constraint which error means that another row has the key. The channel `wakes`
    is notified once the row is committed.
    """

    statement: DriverStatement
    values: Mapping[str, object]
    taken: Mapping[str, Callable[[], HoldfastError]] = field(default_factory=dict)
    wakes: str | None = None


class Session(AsyncSession):
    """A session of `Database.transaction` or `Database.read`. `driver` is the driver's connection."""

    def __init__(self, connection: AsyncConnection, driver: asyncpg.Connection, info: Mapping[Any, Any]) -> None:
        super().__init__(connection, expire_on_commit=False, autoflush=False, info=dict(info))
        self.driver = driver

    async def fetch(self, statement: DriverStatement, **values: object) -> list[asyncpg.Record]:
        """The rows of a prepared statement. What the driver raises is not wrapped.

        Raises `ConnectionLost` when the server goes away.
        """
        return await self._measured(statement.sql, statement.fetch(self.driver, **values))

    async def insert(self, *rows: Row) -> int:
        """Insert these rows in one round trip; how many rows the last one added. None of them sees the others.

        Raises what a row's `taken` says, and otherwise what `fetch` raises.
        """
        sql, values = inserting(*rows)
        try:
            status = await self._measured(sql, self.driver.execute(sql, *values))
        except asyncpg.UniqueViolationError as error:
            taken = {name: make for row in rows for name, make in row.taken.items()}
            if error.constraint_name not in taken:
                raise
            refusal = taken[error.constraint_name]()
            raise refusal from error
        for row in rows:
            if row.wakes is not None:
                wake_after_commit(self, row.wakes)
        return int(status.rpartition(" ")[2])

    async def _measured[T](self, sql: str, running: Coroutine[Any, Any, T]) -> T:
        """Raises `ConnectionLost`, with a closed connection, after any error that leaves it in an unknown state."""
        if self.in_nested_transaction():
            await self.connection()  # SQLAlchemy sets its savepoint with the first statement of its own
        started, error_type = time.perf_counter(), ""
        try:
            return await running
        except Exception as error:
            error_type = getattr(error, "sqlstate", None) or type(error).__name__
            if self.driver.is_closed() or is_session_over(error):
                self.driver.terminate()
                raise ConnectionLost(str(error) or type(error).__name__) from error
            raise
        finally:
            note_statement(sql, time.perf_counter() - started, error_type)


def inserting(*rows: Row) -> tuple[str, list[object]]:
    """The statement that inserts these rows, as the driver takes it, and its values."""
    sql = in_one_statement(tuple((row.statement.sql, len(row.statement.names)) for row in rows))
    return sql, [row.values[name] for row in rows for name in row.statement.names]


def after_commit(session: AsyncSession, callback: Callable[[], object]) -> None:
    """Call `callback` once the session's transaction has committed; never when it rolls back.

    The same callback given twice runs once. It must not block or raise: it wakes somebody up, nothing more.
    """
    callbacks: list[Callable[[], object]] = session.info.setdefault(_AFTER_COMMIT, [])
    if callback not in callbacks:
        callbacks.append(callback)


def log_after_commit(session: AsyncSession, write: Callable[..., object], event: str, **fields: object) -> None:
    """`write(event, **fields)` once the transaction has committed: a line about what rolled back would be a lie."""
    after_commit(session, partial(write, event, **fields))


def wake_after_commit(session: AsyncSession, channel: str) -> None:
    """Notify `channel` once the session's transaction has committed.

    Does nothing in a session whose `Database` was made without `notify`: polling finds the row.
    """
    if NOTIFY in session.info:
        after_commit(session, partial(session.info[NOTIFY], channel))


def call_back(session: AsyncSession) -> None:
    """Call what was given to `after_commit`."""
    for callback in session.info.pop(_AFTER_COMMIT, ()):
        callback()


@asynccontextmanager
async def in_transaction(session: Session) -> AsyncIterator[None]:
    """Commits when the block ends, rolls back when it raises.

    Raises `ConnectionLost` when the server goes away or falls silent. It leaves the connection either outside any
    transaction or closed: one whose BEGIN was cut short may be in a transaction, and the driver does not know it.
    For SQLAlchemy the connection is in autocommit mode, so that nothing else begins or ends a transaction.
    """
    await _run(session.driver, "BEGIN")
    try:
        yield
        if session.in_transaction():  # SQLAlchemy has done something
            await session.commit()  # writes what was added to the session
    except BaseException:
        if not session.driver.is_closed():
            await _run(session.driver, "ROLLBACK")
        raise
    started = time.perf_counter()
    await _run(session.driver, "COMMIT")
    add_to_canonical_line(db_ms=(time.perf_counter() - started) * 1000)


async def _run(driver: asyncpg.Connection, statement: str) -> None:
    try:
        await driver.execute(statement)
    except BaseException as error:
        driver.terminate()
        if is_session_over(error):
            raise ConnectionLost(str(error) or type(error).__name__) from error
        raise
