"""A pool of connections to the database. Code borrows a connection with `transaction`, `read` or `driver`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from chassis.config.settings import DatabaseSettings
from chassis.errors import DatabaseBusy, DatabaseUnreachable, PoolExhausted
from chassis.fast.contextmanager import contextmanager
from chassis.fast.idle_connections import RETURN_SECONDS, Borrowed, IdleConnections
from chassis.logging import add_to_canonical_line, get_logger
from chassis.pooling import metrics
from chassis.pooling.checkouts import Checkouts
from chassis.pooling.engine import Passwords, create_engine
from chassis.pooling.failures import ConnectionLost, Failure, failure_of, is_session_over
from chassis.pooling.session import NOTIFY, Session, call_back, in_transaction

log = get_logger(__name__)

# The errors that SQLAlchemy or the driver may raise while SQLAlchemy opens a connection. SQLAlchemy wraps the error of
# a statement in EmulatedDBAPIException and then in DBAPIError. While SQLAlchemy opens a connection, a driver's error
# may have no wrapper, or only the inner one. If the new connection breaks at once, SQLAlchemy raises
# InvalidRequestError.
_CONNECT_ERRORS = (
    ConnectionLost,  # raised by the queries with which SQLAlchemy asks the server for its version and settings
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    DBAPIError,
    EmulatedDBAPIException,
    InvalidRequestError,
)

_FROM_THE_DATABASE = (
    ConnectionLost,
    DBAPIError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""The errors in a caller's block that come from the database. `TimeoutError` and `OSError` are not in this list. A
session turns the time-outs and the `OSError`s of its connection into `ConnectionLost`, so a `TimeoutError` or `OSError`
comes from other code in the block.
"""


class Database:
    """One SQLAlchemy engine with its pool of connections.

    The code that assembles a process creates the `Database`, and closes the `Database` after all code that uses it has
    ended. `pool` is the name of the pool in metrics and errors. Health checks have a separate pool, so that they do not
    compete with requests for connections. `notify` (`chassis.pooling.wakeup.Wakeups.notify`) wakes the processes that
    wait for the rows of a committed transaction. `passwords` is called for each new connection and returns the current
    passwords, so that an operator can replace a password while the process runs. Without `passwords`, a connection uses
    the passwords in `settings`.
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
        self._engine = create_engine(
            settings,
            pool=pool,
            application_name=application_name,
            passwords=passwords or (lambda: settings.passwords),
        )
        self._checkouts = Checkouts(
            pool, overdue_after=settings.overdue_after, refuse_calls=settings.held_calls == "refuse"
        )
        self._idle = IdleConnections(self._engine, return_after=min(RETURN_SECONDS, settings.pool_recycle))
        # Callers wait in order for a slot of this semaphore. The semaphore has a slot per connection, so SQLAlchemy's
        # pool never has to block a caller.
        self._slots = asyncio.Semaphore(settings.pool_size + settings.max_overflow)
        self._pending = 0
        self._timeouts = metrics.timeouts.labels(pool)
        self._wait_seconds = metrics.wait_seconds.labels(pool)
        queue = self._engine.pool
        assert isinstance(queue, QueuePool)  # noqa: S101  tells the type checker which pool create_engine makes
        metrics.count.labels(pool, "used").set_function(lambda: queue.checkedout() - len(self._idle))
        metrics.count.labels(pool, "idle").set_function(lambda: queue.checkedin() + len(self._idle))
        metrics.idle_max.labels(pool).set(settings.pool_size)
        metrics.maximum.labels(pool).set(settings.pool_size + settings.max_overflow)
        metrics.pending_requests.labels(pool).set_function(lambda: self._pending)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A session whose work commits when the block ends and rolls back when the block raises.

        After the commit, the callbacks of `after_commit` run. Raises `PoolExhausted` when no connection becomes free
        within `pool_timeout`. Also raises the two subclasses of `PoolExhausted`. `DatabaseUnreachable` means an outage:
        if the outage began during the COMMIT, the work may or may not be committed. `DatabaseBusy` means that a
        statement timed out or met a deadlock: the work was not committed.
        """
        async with self._session() as session, in_transaction(session):
            yield session
        call_back(session)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        """A session for reading, in autocommit mode: a single SELECT needs no BEGIN and no COMMIT."""
        async with self._session() as session:
            yield session

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the driver (asyncpg) for the loops of the job queue, which claim and end jobs. Each statement
        runs in a separate transaction.

        Raises the same errors as `transaction` when no connection is available. A statement raises the driver's own
        errors. `Checkouts` does not record this use of a connection. Otherwise the jobs that a loop starts inside the
        block would inherit the checkout. `check_nothing_held` would then report the jobs' outbound calls, although the
        jobs do not use the loop's connection.
        """
        async with self._borrowed() as borrowed:
            is_fit = False
            try:
                yield borrowed.driver
                is_fit = True
            except Exception as error:
                is_fit = not is_session_over(error)
                raise
            finally:
                if not borrowed.driver.is_closed() and (not is_fit or borrowed.driver.is_in_transaction()):
                    borrowed.driver.terminate()  # the next caller must not get an open transaction

    async def ping(self) -> None:
        """Raise an error unless the database answers."""
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        self._checkouts.close()
        await self._idle.close()
        await self._engine.dispose()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        """A session on a borrowed connection. Turns the database's errors into the errors that `transaction` raises."""
        async with self._borrowed() as borrowed:
            session = Session(borrowed.connection, borrowed.driver, self._info)
            try:
                with _outages_named(self.pool), self._checkouts.checkout():
                    yield session
            finally:
                session.sync_session.close()  # sends no ROLLBACK, because the connection is in autocommit mode

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Borrowed]:
        """A connection for the block. After the block, another caller may get this connection if it is still open."""
        since = await self._take_slot()
        try:
            borrowed = await self._connect(self._idle.take(), since=since)
            try:
                yield borrowed
            finally:
                await self._idle.keep(borrowed)
        finally:
            self._slots.release()

    async def _take_slot(self) -> float:
        """Wait for a slot; each connection has one slot. Returns the `perf_counter` time at which the wait began."""
        since = time.perf_counter()
        if not self._slots.locked():  # a slot is free, so the wait needs no time-out
            await self._slots.acquire()
            return since
        self._pending += 1
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError as error:
            self._timeouts.inc()
            self._note_wait(since)
            raise PoolExhausted(self.pool, self._timeout) from error
        finally:
            self._pending -= 1
        return since

    async def _connect[T](self, opening: Awaitable[T], *, since: float) -> T:
        self._pending += 1
        try:
            return await opening
        except PoolTimeout as error:
            # A cancelled caller may free its slot before SQLAlchemy's pool has the connection back. The next caller
            # then has a slot, but the pool is still full.
            self._timeouts.inc()
            raise PoolExhausted(self.pool, self._timeout) from error
        except _CONNECT_ERRORS as error:
            raise DatabaseUnreachable(self.pool, type(error).__name__) from error
        finally:
            self._pending -= 1
            self._note_wait(since)

    def _note_wait(self, since: float) -> None:
        seconds = time.perf_counter() - since
        self._wait_seconds.observe(seconds)
        add_to_canonical_line(pool_wait_ms=seconds * 1000)


def open_health_pool(settings: DatabaseSettings, *, application_name: str, passwords: Passwords) -> Database:
    """A pool of one connection for health checks, so that an exhausted main pool does not make the process unready."""
    of_one = settings.model_copy(update={"pool_size": 1, "max_overflow": 0})
    return Database(of_one, pool="health", application_name=application_name, passwords=passwords)


@contextmanager
def _outages_named(pool: str) -> Generator[None]:
    """Turns an error that means an outage into `DatabaseUnreachable`, and an error of a busy database into
    `DatabaseBusy`.
    """
    try:
        yield
    except _FROM_THE_DATABASE as error:
        failure = failure_of(error)
        if failure is Failure.BUG:
            raise
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        if failure is Failure.OUTAGE:
            raise DatabaseUnreachable(pool, reason) from error
        # The caller gets an error that only says "try again". The log line gives an operator the database's reason.
        log.warning("statement_timed_out", pool=pool, reason=reason)
        raise DatabaseBusy(pool, reason) from error
