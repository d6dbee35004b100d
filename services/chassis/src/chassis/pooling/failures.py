"""Classifies every error of the database: an outage, a busy database, or a bug in our code.

All code that uses the database classifies the database's errors with `failure_of`. So requests, jobs and event handlers
react in the same way to the same error, such as a full disk.
"""

from enum import StrEnum

import asyncpg
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException, ResourceClosedError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chassis.errors import DatabaseUnreachable, PoolExhausted


class Failure(StrEnum):
    """The kind of a database error, which decides whether the caller tries again."""

    OUTAGE = "outage"
    """The database cannot be used now; a later attempt may succeed. If the error came during a COMMIT, the transaction
    may be committed.
    """
    BUSY = "busy"
    """The database or its pool was too busy, or two transactions conflicted; a later attempt may succeed. The
    transaction was rolled back.
    """
    BUG = "bug"
    """Our code or its input is wrong, so a repetition would fail in the same way."""


class ConnectionLost(Exception):
    """The connection broke, the server announced that it ends the session, or the server no longer answers."""


class TransactionRolledBack(Exception):
    """The server answered COMMIT with a rollback, because a statement of the transaction had failed. The code between
    the statement and the COMMIT has suppressed the statement's error. Such code needs a SAVEPOINT (`begin_nested`).
    """


_OUTAGE_CLASSES = frozenset({"08", "53", "57", "58"})
"""SQLSTATE classes: 08 is a failed connection, 53 means that the server has no disk, memory or connections left, 57 is
an operator's intervention, and 58 is an error of the operating system."""
_OUTAGES = (
    # The server is a standby, or an operator has made the server read-only.
    asyncpg.ReadOnlySQLTransactionError,
    # A migration has made a prepared statement invalid. The driver prepares the statement again for the next attempt,
    # so the next attempt succeeds.
    asyncpg.InvalidCachedStatementError,
)
_BUSY_CLASSES = frozenset({"40"})  # SQLSTATE class 40: a deadlock, or a conflict between two transactions
_BUSY_STATES = frozenset({asyncpg.LockNotAvailableError.sqlstate, asyncpg.QueryCanceledError.sqlstate})
"""The SQLSTATEs with which the server ends a statement after `lock_timeout` or `statement_timeout`."""
_SESSION_ENDS = frozenset({"FATAL", "PANIC"})
_SERVER_GOES = "57P"
"""An error whose SQLSTATE has this prefix ends the session: an administrator ended the session, or the server has
crashed or is starting.
"""
_TRANSPORT_CLOSED = "the handler is closed"
"""uvloop raises a RuntimeError whose text ends with these words when code writes to a connection that the other side
has reset.
"""


def failure_of(error: BaseException) -> Failure:
    """The kind of `error`, which the driver, SQLAlchemy, the operating system or `Database` raised.

    The kind of an exception group is the kind of its worst member: a bug is worse than an outage, and an outage is
    worse than a busy database. Pass only errors that come from the database, because this function classifies every
    time-out and every `OSError` as an outage.
    """
    match error:
        case BaseExceptionGroup():
            found = {failure_of(one) for one in error.exceptions}
            return next(kind for kind in (Failure.BUG, Failure.OUTAGE, Failure.BUSY) if kind in found)
        case ConnectionLost() | DatabaseUnreachable() | ResourceClosedError():
            # SQLAlchemy raises ResourceClosedError when the first connection of a pool breaks.
            return Failure.OUTAGE
        case PoolExhausted() | PoolTimeout():
            return Failure.BUSY
        case DBAPIError() if error.connection_invalidated:
            return Failure.OUTAGE
        case _:
            return _of_driver(_unwrapped(error))


def is_transient(error: BaseException) -> bool:
    """Whether a repetition may succeed: after an outage, or when the database was busy."""
    return failure_of(error) is not Failure.BUG


def is_session_over(error: BaseException) -> bool:
    """Whether `error` makes the connection unusable. The driver may not report such a connection as closed yet."""
    error = _unwrapped(error)
    if isinstance(error, asyncpg.PostgresError):
        return _ends_session(error)
    return _of_driver(error) is Failure.OUTAGE


def is_transport_closed(error: RuntimeError) -> bool:
    """Whether `error` is uvloop's refusal to write to a connection that the other side has reset.

    asyncio's own event loop raises no error for such a write.
    """
    return str(error).endswith(_TRANSPORT_CLOSED)


def _unwrapped(error: BaseException) -> BaseException:
    """The driver's error inside `error`, which SQLAlchemy may have wrapped in up to two exceptions."""
    if isinstance(error, DBAPIError):
        error = error.orig or error
    return (error.__cause__ or error) if isinstance(error, EmulatedDBAPIException) else error


def _of_driver(error: BaseException) -> Failure:
    match error:
        case asyncpg.PostgresError():
            return _of_server(error)
        case asyncpg.InternalClientError():
            # The driver raises this error if the server closes the connection between two steps of the driver.
            return Failure.OUTAGE
        case OSError():  # TimeoutError is a subclass of OSError
            return Failure.OUTAGE
        case asyncpg.InterfaceError() if "is closed" in str(error):
            return Failure.OUTAGE
        case RuntimeError() if is_transport_closed(error):
            return Failure.OUTAGE
        case _:
            return Failure.BUG


def _of_server(error: asyncpg.PostgresError) -> Failure:
    state = error.sqlstate or ""
    if _ends_session(error) or isinstance(error, _OUTAGES):
        return Failure.OUTAGE
    if state in _BUSY_STATES or state[:2] in _BUSY_CLASSES:
        return Failure.BUSY
    return Failure.OUTAGE if state[:2] in _OUTAGE_CLASSES else Failure.BUG


def _ends_session(error: asyncpg.PostgresError) -> bool:
    """Whether the server ends the session with this error.

    `severity_en` is always in English, but some connection poolers leave `severity_en` out of the error. The function
    then uses `severity`, which may be in another language.
    """
    if isinstance(error, asyncpg.PostgresConnectionError) or (error.sqlstate or "").startswith(_SERVER_GOES):
        return True
    return (error.severity_en or error.severity) in _SESSION_ENDS
