"""The engine of one pool: it opens connections, sets up the connections' sessions and measures their statements."""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import asyncpg
from pydantic import SecretStr
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from chassis.config.settings import DatabaseSettings
from chassis.fast.connection_check import try_before_use
from chassis.logging import add_to_canonical_line, get_logger
from chassis.pooling import metrics
from chassis.pooling.failures import ConnectionLost, is_session_over

log = get_logger(__name__)

type Passwords = Callable[[], Sequence[SecretStr]]
"""A function that returns the passwords that the server may accept now: at least one, and the most likely one first."""

_STARTED = "chassis.started"
_OPERATIONS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"})


def create_engine(settings: DatabaseSettings, *, pool: str, application_name: str, passwords: Passwords) -> AsyncEngine:
    """An SQLAlchemy engine with its pool. The pool calls `passwords` each time it opens a connection."""
    engine = create_async_engine(
        URL.create(
            "postgresql+asyncpg",
            username=settings.user,
            host=settings.host,
            port=settings.port,
            database=settings.name,
        ),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout,
        pool_recycle=int(settings.pool_recycle),
        # The pool hands out the idle connection that was used last. So the same few connections serve a low load. The
        # other connections stay idle, and the server or a router may close them without harm.
        pool_use_lifo=True,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",  # `chassis.pooling.session.in_transaction` sends BEGIN and COMMIT
        connect_args={
            "async_creator_fn": partial(_open_measured, pool, passwords),
            "timeout": settings.connect_timeout,
            # After `statement_timeout` the server ends a slow statement. `command_timeout` is a second longer and ends
            # the wait for a server that no longer answers.
            "command_timeout": settings.statement_timeout + 1,
            "server_settings": {
                "application_name": application_name,
                "timezone": "UTC",
                "statement_timeout": _milliseconds(settings.statement_timeout),
                "lock_timeout": _milliseconds(settings.lock_timeout),
                "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout),
            },
        },
    )
    _time_statements(engine.sync_engine)
    try_before_use(engine.sync_engine, seconds=settings.pool_timeout)
    return engine


async def open_connection(passwords: Passwords, **arguments: Any) -> asyncpg.Connection:
    """Open a connection with the first password that the server accepts. The `arguments` go to `asyncpg.connect`.

    During a password rotation the server first accepts the old password and later the new one. A process tries both
    passwords, so the process can connect during the whole rotation.
    """
    *earlier, last = passwords()
    for password in earlier:
        try:
            return await asyncpg.connect(password=password.get_secret_value(), **arguments)
        except asyncpg.InvalidPasswordError:
            # From `ALTER ROLE … PASSWORD` until the process reads the new `database.password`, about a minute, the
            # server refuses the first password. If an operator forgets to change `database.password`, the server
            # refuses the first password indefinitely, and each new connection takes two attempts.
            log.warning("database_password_refused", user=arguments.get("user"))
    return await asyncpg.connect(password=last.get_secret_value(), **arguments)


async def _open_measured(pool: str, passwords: Passwords, **arguments: Any) -> asyncpg.Connection:
    started = time.perf_counter()
    connection = await open_connection(passwords, **arguments)
    metrics.create_seconds.labels(pool).observe(time.perf_counter() - started)
    return connection


def note_statement(statement: str, seconds: float, error_type: str) -> None:
    """Add a statement to the metrics and to the canonical line (the one log line that sums up a request or an attempt
    at a job). `error_type` is empty if the statement succeeded.
    """
    add_to_canonical_line(db_queries=1, db_ms=seconds * 1000)
    metrics.operation_seconds.labels(_operation(statement), error_type).observe(seconds)


def _time_statements(engine: Engine) -> None:
    """Add each statement, failed ones included, to the metrics and to the canonical line (the log line of a
    request).
    """

    def info_of(connection: Connection) -> dict[Any, Any]:
        # `Connection.info` raises NotImplementedError while SQLAlchemy asks a server for its version and settings.
        info = connection.connection.record_info
        return {} if info is None else info

    def start(connection: Connection, *_: object) -> None:
        info_of(connection)[_STARTED] = time.perf_counter()

    def finish(connection: Connection | None, statement: str, error_type: str) -> None:
        started = info_of(connection).pop(_STARTED, None) if connection is not None else None
        if started is not None:
            note_statement(statement, time.perf_counter() - started, error_type)

    def on_success(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        finish(connection, statement, "")

    def on_error(context: ExceptionContext) -> Exception | None:
        error = context.original_exception
        state = getattr(error, "sqlstate", None)
        finish(context.connection, context.statement or "", state or type(error).__name__)
        if context.connection is None or context.connection.invalidated or not is_session_over(error):
            return None
        # The session is over, although the driver may not report the connection as closed yet. After a time-out of the
        # driver, the server may be in a transaction that SQLAlchemy does not know of. So the connection must be closed.
        # `terminate` closes the connection without waiting for the server; `close` would wait.
        context.is_disconnect = True
        driver_connection = context.connection.connection.driver_connection
        assert isinstance(driver_connection, asyncpg.Connection)  # noqa: S101  for the type checker: the driver is asyncpg
        driver_connection.terminate()
        return ConnectionLost(str(error) or type(error).__name__)

    event.listen(engine, "before_cursor_execute", start)
    event.listen(engine, "after_cursor_execute", on_success)
    event.listen(engine, "handle_error", on_error, retval=True)


@lru_cache(maxsize=1024)
def _operation(statement: str) -> str:
    """The first word of the statement, or `_OTHER` when this word is not in `_OPERATIONS`."""
    word = statement.split(None, 1)[0].upper() if statement else ""
    return word if word in _OPERATIONS else "_OTHER"


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
