"""SQLAlchemy's session, extended so that it also runs prepared statements of the driver (asyncpg).

A service uses SQLAlchemy for models and queries. A statement that most requests run goes directly to the driver, which
prepares the statement once per connection. SQLAlchemy and the driver use the same connection and the same transaction.
"""

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from chassis.errors import HoldfastError
from chassis.fast.one_statement import in_one_statement
from chassis.logging import add_to_canonical_line
from chassis.pooling.engine import note_statement
from chassis.pooling.failures import ConnectionLost, TransactionRolledBack, is_session_over
from chassis.pooling.statements import DriverStatement

NOTIFY = "chassis.notify"
"""The key under which `Session.info`, SQLAlchemy's dictionary for data about a session, has the `notify` function of
the `Database`.
"""
_AFTER_COMMIT = "chassis.after_commit"
_ROLLBACK_ERRORS = (ConnectionLost, asyncpg.PostgresError, asyncpg.InterfaceError)
"""Errors of the ROLLBACK after a cancellation. These errors are suppressed, because the caller must get the
cancellation. After such an error the connection is closed, so the server rolls back.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row to insert: the statement that inserts it, and the statement's values.

    `taken` maps the name of a unique constraint to a function. If another row already has this row's key, `insert`
    raises the error that the function returns. After the commit, a NOTIFY on the channel `wakes` wakes the processes
    that wait for the row.
    """

    statement: DriverStatement
    values: Mapping[str, object]
    taken: Mapping[str, Callable[[], HoldfastError]] = field(default_factory=dict)
    wakes: str | None = None


class Session(AsyncSession):
    """A session of `Database.transaction` or `Database.read`. `driver` is asyncpg's object for the same connection."""

    def __init__(self, connection: AsyncConnection, driver: asyncpg.Connection, info: Mapping[Any, Any]) -> None:
        super().__init__(connection, expire_on_commit=False, autoflush=False, info=dict(info))
        self.driver = driver

    async def fetch(self, statement: DriverStatement, **values: object) -> list[asyncpg.Record]:
        """Run a prepared statement and return its rows.

        Raises `ConnectionLost` when the server goes away. All other errors are those of the driver (asyncpg).
        """
        return await self._measured(statement.sql, statement.fetch(self.driver, **values))

    async def fetch_one[T](self, statement: DriverStatement, make: Callable[..., T], /, **values: object) -> T | None:
        """Run a prepared statement that returns at most one row. Returns `make(**row)`, or None if there is no row.
        Raises the errors of `fetch`.
        """
        rows = await self.fetch(statement, **values)
        return make(**rows[0]) if rows else None

    async def fetch_value(self, statement: DriverStatement, **values: object) -> Any:
        """Run a prepared statement that returns at most one row with one column. Returns the column's value, or None if
        there is no row. Raises the errors of `fetch`.
        """
        rows = await self.fetch(statement, **values)
        return rows[0][0] if rows else None

    async def insert(self, *rows: Row) -> int:
        """Insert these rows in one round trip, and return how many rows the statement of the last `Row` added.

        The statement of one row does not see the other rows. If a row violates a unique constraint that its `taken`
        names, this method raises the error that `taken` maps to the constraint. All other errors are the same as those
        of `fetch`.
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
        """Run and measure a statement.

        After an error that leaves the connection in an unknown state, closes the connection and raises
        `ConnectionLost`.
        """
        if self.in_nested_transaction():
            await self.connection()  # makes SQLAlchemy send the SAVEPOINT before the driver sends `sql`
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
    """One statement for the driver that inserts these rows, and the values of its parameters."""
    sql = in_one_statement(tuple((row.statement.sql, len(row.statement.names)) for row in rows))
    return sql, [row.values[name] for row in rows for name in row.statement.names]


def after_commit(session: AsyncSession, callback: Callable[[], object]) -> None:
    """Call `callback` after the session's transaction has committed. After a rollback, `callback` is not called.

    A callback that is passed to `after_commit` twice runs once. A callback must not block or raise. The callback runs
    in the context of the caller of `after_commit`, so its log lines have the caller's fields.
    """
    callbacks: list[tuple[Callable[[], object], Context]] = session.info.setdefault(_AFTER_COMMIT, [])
    if all(callback != known for known, _ in callbacks):
        callbacks.append((callback, copy_context()))


def log_after_commit(session: AsyncSession, write: Callable[..., object], event: str, **fields: object) -> None:
    """Call `write(event, **fields)` after the commit, so that no log line reports a change that was rolled back."""
    after_commit(session, partial(write, event, **fields))


def wake_after_commit(session: AsyncSession, channel: str) -> None:
    """Send a NOTIFY on `channel` after the session's transaction has committed.

    Does nothing if the session's `Database` has no `notify`: the waiting process then finds the row by polling.
    """
    if NOTIFY in session.info:
        after_commit(session, partial(session.info[NOTIFY], channel))


def call_back(session: AsyncSession) -> None:
    """Call the callbacks that were passed to `after_commit`."""
    for callback, context in session.info.pop(_AFTER_COMMIT, ()):
        context.run(callback)


@asynccontextmanager
async def in_transaction(session: Session) -> AsyncIterator[None]:
    """A transaction that commits when the block ends and rolls back when the block raises.

    Raises `ConnectionLost` when the server goes away or does not answer. Raises `TransactionRolledBack` when the block
    has suppressed the error of a statement, because the server then commits nothing. After the block, the connection is
    either outside any transaction or closed. If BEGIN, COMMIT or ROLLBACK was interrupted, this function closes the
    connection, because the driver cannot know whether the server is still in a transaction. For SQLAlchemy the
    connection is in autocommit mode, so SQLAlchemy sends no BEGIN, COMMIT or ROLLBACK; only this function sends them.
    """
    await _run(session.driver, "BEGIN")
    try:
        yield
        if session.in_transaction():  # true if the block used SQLAlchemy, and not only the driver
            # `commit` sends pending INSERTs and UPDATEs. In autocommit mode, `commit` sends no COMMIT.
            await session.commit()
    except Exception:
        if not session.driver.is_closed():
            await _run(session.driver, "ROLLBACK")
        raise
    except BaseException:  # the task was cancelled
        if not session.driver.is_closed():
            with suppress(*_ROLLBACK_ERRORS):
                await _run(session.driver, "ROLLBACK")
        raise
    started = time.perf_counter()
    if await _run(session.driver, "COMMIT") == "ROLLBACK":
        raise TransactionRolledBack("a statement of the transaction failed, and the code suppressed its error")
    add_to_canonical_line(db_ms=(time.perf_counter() - started) * 1000)


async def _run(driver: asyncpg.Connection, statement: str) -> str:
    """Run BEGIN, COMMIT or ROLLBACK, and return the command that the server reports as done."""
    try:
        return await driver.execute(statement)
    except BaseException as error:
        driver.terminate()
        if is_session_over(error):
            raise ConnectionLost(str(error) or type(error).__name__) from error
        raise
