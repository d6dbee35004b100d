"""What an error from the database is: an outage, too much at once, or a bug of ours.

Whatever talks to the database decides by `failure_of`, so that a full disk is the same thing to a request, a job, a
relay and a consumer.
"""

from enum import StrEnum

import asyncpg
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException, ResourceClosedError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chassis.errors import DatabaseUnreachable, PoolExhausted


class Failure(StrEnum):
    """What an error says about the database, and what to do about it."""

    OUTAGE = "outage"
    """It cannot be used now. Come again; what was about to be committed may have been committed."""
    BUSY = "busy"
    """It has too much to do at once. Come again; nothing was committed."""
    BUG = "bug"
    """The same again fails again."""


class ConnectionLost(Exception):
    """The connection broke, the server has said that it goes, or it says nothing any more."""


_OUTAGE_CLASSES = frozenset({"08", "53", "57", "58"})
"""The connection; the server's resources (disk, memory, slots); an operator; the system around the server."""
_OUTAGES = (
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or an operator's `default_transaction_read_only`
    asyncpg.InvalidCachedStatementError,  # prepared before a migration; it is prepared anew next time
)
_BUSY_CLASSES = frozenset({"40"})  # a deadlock, or a transaction that did not fit beside another
_BUSY_STATES = frozenset({asyncpg.LockNotAvailableError.sqlstate, asyncpg.QueryCanceledError.sqlstate})
"""What the server says at the end of `lock_timeout` and `statement_timeout`."""
_SESSION_ENDS = frozenset({"FATAL", "PANIC"})
_SERVER_GOES = "57P"
"""An administrator ended the session, the server crashed, or it is starting: what a backend says before it goes."""
_TRANSPORT_CLOSED = "the handler is closed"
"""How uvloop's bare RuntimeError ends, for what is written between a reset and its notice of it."""


def failure_of(error: BaseException) -> Failure:
    """What `error` is, raised by the driver, by SQLAlchemy, by the operating system, or by `Database`.

    Of several together (an exception group) it is the worst one's. Only for what a block that uses the database raises:
    a time-out or an `OSError` of anything else would count as the database's.
    """
    match error:
        case BaseExceptionGroup():
            found = {failure_of(one) for one in error.exceptions}
            return next(kind for kind in (Failure.BUG, Failure.OUTAGE, Failure.BUSY) if kind in found)
        case ConnectionLost() | DatabaseUnreachable() | ResourceClosedError():
            # When the pool's very first connection breaks, SQLAlchemy calls it a closed resource.
            return Failure.OUTAGE
        case PoolExhausted() | PoolTimeout():
            return Failure.BUSY
        case DBAPIError() if error.connection_invalidated:
            return Failure.OUTAGE
        case _:
            return _of_driver(_unwrapped(error))


def is_transient(error: BaseException) -> bool:
    """Whether to come again: an outage or a busy database."""
    return failure_of(error) is not Failure.BUG


def is_session_over(error: BaseException) -> bool:
    """Whether no connection can be used any more after `error`, even where the driver does not call it closed yet."""
    error = _unwrapped(error)
    if isinstance(error, asyncpg.PostgresError):
        return _ends_session(error)
    return _of_driver(error) is Failure.OUTAGE


def is_transport_closed(error: RuntimeError) -> bool:
    """Whether uvloop refused to write to a connection that was reset, which asyncio's own loop does in silence."""
    return str(error).endswith(_TRANSPORT_CLOSED)


def _unwrapped(error: BaseException) -> BaseException:
    """The driver's error, out of the two that SQLAlchemy puts around it."""
    if isinstance(error, DBAPIError):
        error = error.orig or error
    return (error.__cause__ or error) if isinstance(error, EmulatedDBAPIException) else error


def _of_driver(error: BaseException) -> Failure:
    match error:
        case asyncpg.PostgresError():
            return _of_server(error)
        case asyncpg.InternalClientError():  # the driver's word for a server that goes away between two of its steps
            return Failure.OUTAGE
        case OSError():  # a TimeoutError is one
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
    """`severity` is in the server's language, and a pooler between us and the server may send nothing else."""
    if isinstance(error, asyncpg.PostgresConnectionError) or (error.sqlstate or "").startswith(_SERVER_GOES):
        return True
    return (error.severity_en or error.severity) in _SESSION_ENDS
