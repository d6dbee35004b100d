"""Classifies every error of the database: an outage, a busy database, or a bug in our code.

All code that talks to the database decides by `failure_of`, so a request, a job, the relay and a consumer treat a full
disk alike.
"""

from enum import StrEnum

import asyncpg
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException, ResourceClosedError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chassis.errors import DatabaseUnreachable, PoolExhausted


class Failure(StrEnum):
    """The kind of a database error, which decides whether the caller tries again."""

    OUTAGE = "outage"
    """The database cannot be used now. Try again later. A commit that was under way may have succeeded."""
    BUSY = "busy"
    """The database has too much to do at once. Try again later. The transaction was rolled back."""
    BUG = "bug"
    """A repetition would fail in the same way."""


class ConnectionLost(Exception):
    """The connection broke, the server announced that it ends the session, or the server no longer answers."""


_OUTAGE_CLASSES = frozenset({"08", "53", "57", "58"})
"""SQLSTATE classes: 08 is a failed connection, 53 means that the server has no disk, memory or connections left, 57 is
an operator's intervention, and 58 is an error of the operating system."""
_OUTAGES = (
    asyncpg.ReadOnlySQLTransactionError,  # from a standby, or with an operator's `default_transaction_read_only`
    asyncpg.InvalidCachedStatementError,  # prepared before a migration; the driver prepares it again at its next use
)
_BUSY_CLASSES = frozenset({"40"})  # a deadlock, or a transaction that conflicts with another one
_BUSY_STATES = frozenset({asyncpg.LockNotAvailableError.sqlstate, asyncpg.QueryCanceledError.sqlstate})
"""The SQLSTATEs with which the server ends a statement after `lock_timeout` or `statement_timeout`."""
_SESSION_ENDS = frozenset({"FATAL", "PANIC"})
_SERVER_GOES = "57P"
"""The SQLSTATEs with this prefix end a session: an administrator ended it, the server crashed, or it is starting up."""
_TRANSPORT_CLOSED = "the handler is closed"
"""uvloop raises a RuntimeError with this ending for a write to a connection whose reset it has not noticed yet."""


def failure_of(error: BaseException) -> Failure:
    """The kind of `error`, which the driver, SQLAlchemy, the operating system or `Database` raised.

    An exception group has the kind of its worst member. Pass only errors of a block that uses the database: a time-out
    or an `OSError` from elsewhere would count as an outage of the database.
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
    """Whether the connection cannot be used after `error`, even if the driver does not report it as closed yet."""
    error = _unwrapped(error)
    if isinstance(error, asyncpg.PostgresError):
        return _ends_session(error)
    return _of_driver(error) is Failure.OUTAGE


def is_transport_closed(error: RuntimeError) -> bool:
    """Whether uvloop refused to write to a connection that was reset. asyncio's own loop ignores such a write."""
    return str(error).endswith(_TRANSPORT_CLOSED)


def _unwrapped(error: BaseException) -> BaseException:
    """The driver's error, without the two exceptions in which SQLAlchemy wraps it."""
    if isinstance(error, DBAPIError):
        error = error.orig or error
    return (error.__cause__ or error) if isinstance(error, EmulatedDBAPIException) else error


def _of_driver(error: BaseException) -> Failure:
    match error:
        case asyncpg.PostgresError():
            return _of_server(error)
        case asyncpg.InternalClientError():  # raised when the server goes away between two steps of the driver
            return Failure.OUTAGE
        case OSError():  # TimeoutError is a subclass
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

    `severity` is in the server's language, so `severity_en` is better, but some poolers leave it out.
    """
    if isinstance(error, asyncpg.PostgresConnectionError) or (error.sqlstate or "").startswith(_SERVER_GOES):
        return True
    return (error.severity_en or error.severity) in _SESSION_ENDS
