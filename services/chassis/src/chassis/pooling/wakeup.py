"""Wake-ups: PostgreSQL's NOTIFY wakes a process that waits for a row, within milliseconds of the row's commit.

A process sends NOTIFY after the commit and never inside the transaction, because PostgreSQL serialises the commits of
transactions that contain a NOTIFY. On a disk with 2 ms per fsync, this serialisation costs 88 % of the throughput. A
wake-up may be lost, so a process that waits for a row also polls.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Self

import asyncpg

from chassis.config.settings import DatabaseSettings
from chassis.pooling import Passwords, is_transient, open_connection
from chassis.process.background import supervised

COALESCE_SECONDS = 0.005
"""A process sends at most one notification per channel in this time, even if many transactions commit."""
LAST_WORDS_SECONDS = 1.0
"""The time limit for the last notifications of a process that ends. A database that works answers sooner."""
HOLD_SECONDS = 0.2
"""The loop that claims jobs returns its connection to the pool after this time without work. Taking a connection from
the pool costs as much as running ten jobs, so the loop keeps its connection during a short pause between two bursts of
jobs.
"""


class Wakeups:
    """Sends and receives notifications on a connection outside the pool, and replaces the connection when it is lost.

    Until the new connection is open, the process finds rows by polling, which is slower; `/readyz` still succeeds. The
    code that assembles a process enters `async with Wakeups(settings, application_name=...)` and then passes
    `Wakeups.notify` to the `Database`.
    """

    def __init__(
        self, settings: DatabaseSettings, *, application_name: str, passwords: Passwords | None = None
    ) -> None:
        self._settings = settings
        self._passwords = passwords
        self._application_name = application_name
        self._listeners: dict[str, list[_Listener]] = {}
        self._pending: set[str] = set()
        self._has_work = asyncio.Event()
        self._running = AsyncExitStack()
        self._connection: asyncpg.Connection | None = None

    def notify(self, channel: str) -> None:
        """Wake this process if it reads the channel's new rows at once. Otherwise schedule a notification for every
        process that waits on the channel. Does not block and does not raise.
        """
        for listener in self._listeners.get(channel, ()):
            if listener.reads_now():
                listener.wake()
                return
        self._pending.add(channel)
        self._has_work.set()

    def subscribe(self, channel: str, *, reads_now: Callable[[], bool] = lambda: False) -> asyncio.Event:
        """An event that is set at each wake-up on the channel. The caller must clear the event before it reads rows: if
        the caller cleared the event afterwards, it could miss a row that was committed during the read.

        `reads_now` is the same as in `listen`.
        """
        event = asyncio.Event()
        self.listen(channel, event.set, reads_now=reads_now)
        return event

    def listen(self, channel: str, wake: Callable[[], None], *, reads_now: Callable[[], bool]) -> None:
        """Call `wake` at each wake-up on the channel.

        `reads_now` returns whether this process reads new rows at once after `wake`. If so, a row that this process
        commits wakes only this process: a notification would cost a transaction, and would wake the other processes in
        vain.
        """
        self._listeners.setdefault(channel, []).append(_Listener(wake, reads_now))
        self._has_work.set()

    async def __aenter__(self) -> Self:
        await self._running.enter_async_context(supervised(self._serve, name="wakeups", is_outage=is_transient))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send the notifications of the process's last commits, and then close the connection."""
        await self._running.aclose()
        if self._connection is not None and not self._connection.is_closed():
            try:
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    await self._send(self._connection)
                    await self._connection.close()
            except Exception as error:
                self._connection.terminate()
                if not is_transient(error):
                    raise

    async def _serve(self) -> None:
        """Send and receive notifications until the connection is lost, then raise an error."""
        if self._connection is not None:
            self._connection.terminate()  # after a failure, the old connection may still be open
        self._connection = connection = await connect(
            self._settings, application_name=self._application_name, passwords=self._passwords
        )
        connection.add_termination_listener(lambda _: self._has_work.set())
        listening: set[str] = set()
        while not connection.is_closed():
            self._has_work.clear()
            for channel in self._listeners.keys() - listening:
                await connection.add_listener(channel, self._heard)
                listening.add(channel)
                # A row may have been committed before this connection listened, so wake the waiting code once.
                self._wake(channel)
            await self._send(connection)
            await asyncio.sleep(COALESCE_SECONDS)
            await self._has_work.wait()
        raise ConnectionResetError("the connection for wake-ups was lost")

    async def _send(self, connection: asyncpg.Connection) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, set()
        try:
            # This message has no parameters, so the driver uses PostgreSQL's simple protocol. `SELECT pg_notify($1,
            # $2)` would take twice as long.
            await connection.execute("; ".join(f"NOTIFY {_quoted(channel)}" for channel in pending))
        except BaseException:
            # The server may or may not have received the notifications. The next connection sends all of them again,
            # because a second wake-up does no harm.
            self._pending |= pending
            raise

    def _heard(self, _connection: object, _pid: int, channel: str, _payload: object) -> None:
        self._wake(channel)

    def _wake(self, channel: str) -> None:
        for listener in self._listeners[channel]:
            listener.wake()


@dataclass(frozen=True, slots=True)
class _Listener:
    wake: Callable[[], None]
    reads_now: Callable[[], bool]


def _quoted(channel: str) -> str:
    return '"' + channel.replace('"', '""') + '"'


async def wait_or_poll(event: asyncio.Event, *, interval: float) -> None:
    """Wait until the event is set, but at most `interval` seconds: a wake-up may be lost, so the caller also polls."""
    await is_set_within(event, interval)


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait until the event is set, but at most `seconds`. Returns whether the event is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def connect(
    settings: DatabaseSettings, *, application_name: str, passwords: Passwords | None = None
) -> asyncpg.Connection:
    """A long-lived connection outside the pool, to receive notifications or to hold a session-level lock.

    `passwords` returns the current passwords. Without `passwords`, the connection uses the passwords in `settings`.
    """
    return await open_connection(
        passwords or (lambda: settings.passwords),
        host=settings.host,
        port=settings.port,
        user=settings.user,
        database=settings.name,
        timeout=settings.connect_timeout,
        command_timeout=settings.statement_timeout + 1,
        server_settings={"application_name": application_name, "timezone": "UTC"},
    )
