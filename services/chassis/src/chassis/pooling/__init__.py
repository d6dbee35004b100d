"""Connection pooling: one pool per process and purpose, every limit explicit, exhaustion answered quickly.

A request or job takes a connection late, gives it back early and never holds it across an outbound call:
`Database.transaction()` and `Database.read()` are the only two ways to one.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import asyncpg
from prometheus_client import Counter, Gauge, Histogram
from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, ResourceClosedError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool

from chassis.errors import DatabaseUnreachable, PoolExhausted
from chassis.logging import add_to_canonical_line, get_logger
from chassis.settings import DatabaseSettings, RedisSettings

log = get_logger(__name__)

connections = Gauge("db_client_connection_count", "Connections by state (idle, used).", ["pool", "state"])
connections_max = Gauge("db_client_connection_max", "Connections the pool may open.", ["pool"])
wait_seconds = Histogram(
    "db_client_connection_wait_time_seconds",
    "Time spent waiting for a connection.",
    ["pool"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2),
)
timeouts = Counter("db_client_connection_timeouts", "Times no connection became free in time.", ["pool"])

type Passwords = Callable[[], Sequence[SecretStr]]
"""The passwords that may be valid now, the likeliest first; never empty."""

NOTIFY = "chassis.notify"
"""Where a session's `info` holds its database's `notify`."""
_AFTER_COMMIT = "chassis.after_commit"
_STARTED = "chassis.started"

# While connecting, the driver's own errors arrive unwrapped; a broken first connection is called a closed resource.
_CONNECT_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    DBAPIError,
    ResourceClosedError,
)


def pool_budget(*, replicas: int, processes: int, pool_size: int, max_overflow: int) -> int:
    """Connections that all processes together may open: Σ replicas × processes × (pool_size + max_overflow)."""
    return replicas * processes * (pool_size + max_overflow)


class Database:
    """One engine with its pool, made in a composition root and closed when everything that uses it has ended.

    `pool` names it in metrics and errors: separate pools keep health checks and jobs from starving requests. `notify`
    (`chassis.wakeup.Wakeups.notify`) is how a committed transaction wakes whoever waits for its rows. `passwords` gives
    the current ones to each new connection, so that they can be replaced; without it those of `settings` are shown.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        *,
        pool: str,
        application_name: str,
        notify: Callable[[str], None] | None = None,
        passwords: Passwords | None = None,
    ) -> None:
        self.pool = pool
        self._info = {NOTIFY: notify} if notify else {}
        self._timeout = settings.pool_timeout
        self._engine = _create_engine(settings, application_name, passwords or (lambda: settings.passwords))
        _time_statements(self._engine.sync_engine)
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        queue = self._engine.pool
        assert isinstance(queue, QueuePool)  # noqa: S101  tells the type checker what _create_engine chose
        connections.labels(pool, "used").set_function(queue.checkedout)
        connections.labels(pool, "idle").set_function(queue.checkedin)
        connections_max.labels(pool).set(settings.pool_size + settings.max_overflow)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session whose work commits when the block ends and rolls back when it raises.

        What was given to `after_commit` then runs. Raises `PoolExhausted` when no connection is free in time, and its
        kind `DatabaseUnreachable` when none can be opened or the one in use is lost: what it was about to commit may
        then have been committed.
        """
        async with AsyncSession(self._engine, expire_on_commit=False, autoflush=False, info=self._info) as session:
            await self._connect(session)
            with _lost_connections_named(self.pool):
                yield session
                started = time.perf_counter()
                await session.commit()
                add_to_canonical_line(db_ms=(time.perf_counter() - started) * 1000)
        for callback in session.info.pop(_AFTER_COMMIT, ()):
            callback()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for reading: autocommit, which spares a single SELECT the BEGIN and COMMIT around it."""
        async with AsyncSession(self._autocommit, expire_on_commit=False, autoflush=False, info=self._info) as session:
            await self._connect(session)
            with _lost_connections_named(self.pool):
                yield session

    async def ping(self) -> None:
        """Raise unless the database answers."""
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self._engine.dispose()

    async def _connect(self, session: AsyncSession) -> None:
        started = time.perf_counter()
        try:
            await session.connection()
        except PoolTimeout as error:
            timeouts.labels(self.pool).inc()
            raise PoolExhausted(self.pool, self._timeout) from error
        except _CONNECT_ERRORS as error:
            raise DatabaseUnreachable(self.pool, type(error).__name__) from error
        finally:
            seconds = time.perf_counter() - started
            wait_seconds.labels(self.pool).observe(seconds)
            add_to_canonical_line(pool_wait_ms=seconds * 1000)


@contextmanager
def _lost_connections_named(pool: str) -> Iterator[None]:
    """A server that goes away in the middle is an outage to come back after, not a failure of ours."""
    try:
        yield
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise DatabaseUnreachable(pool, "the connection was lost") from error


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


def create_redis(settings: RedisSettings, *, timeout: float) -> Redis:
    """A Redis client over a bounded pool; `timeout` (seconds) bounds waiting for a connection and for an answer."""
    pool: BlockingConnectionPool = BlockingConnectionPool(
        host=settings.host,
        port=settings.port,
        password=settings.password.get_secret_value() if settings.password else None,
        max_connections=settings.max_connections,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        # redis-py retries three times by itself; retrying is decided in one place, by the caller.
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


async def open_connection(passwords: Passwords, **arguments: Any) -> asyncpg.Connection:
    """A connection of the driver with the first of the passwords that the server takes; `arguments` are the driver's.

    While a password is replaced, the server knows the old one until a moment that no process sees, and then the new.
    """
    *earlier, last = passwords()
    for password in earlier:
        try:
            return await asyncpg.connect(password=password.get_secret_value(), **arguments)
        except asyncpg.InvalidPasswordError:
            # Expected for a minute. Who forgets the last step of a rotation pays for two attempts, and reads this.
            log.warning("database_password_refused", user=arguments.get("user"))
    return await asyncpg.connect(password=last.get_secret_value(), **arguments)


def _create_engine(settings: DatabaseSettings, application_name: str, passwords: Passwords) -> AsyncEngine:
    return create_async_engine(
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
        pool_pre_ping=True,
        # The connection used last is warm, and the others may idle long enough to be closed.
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args={
            "async_creator_fn": partial(open_connection, passwords),
            "timeout": settings.connect_timeout,
            # The server ends a slow statement; this ends waiting for a server that has gone silent.
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


def _time_statements(engine: Engine) -> None:
    """Put the number of statements and their time on the canonical line; those that fail count too."""

    def start(connection: Connection, *_: object) -> None:
        connection.info[_STARTED] = time.perf_counter()

    def finish(connection: Connection | None) -> None:
        started = connection.info.pop(_STARTED, None) if connection is not None else None
        if started is not None:
            add_to_canonical_line(db_queries=1, db_ms=(time.perf_counter() - started) * 1000)

    def on_success(connection: Connection, *_: object) -> None:
        finish(connection)

    def on_error(context: ExceptionContext) -> None:
        finish(context.connection)

    event.listen(engine, "before_cursor_execute", start)
    event.listen(engine, "after_cursor_execute", on_success)
    event.listen(engine, "handle_error", on_error)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
