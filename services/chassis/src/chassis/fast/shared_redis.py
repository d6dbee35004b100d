"""Replaces redis-py's pool for short commands: many callers share one connection, and one write sends their commands.

With redis-py's pool, each command takes a connection from the pool, makes two system calls, starts three timers, and
wakes the caller's task several times. A busy process has many commands in flight at the same time. On one connection,
these commands share the system calls and one timer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_NOTHING = object()


class SharedRedis(Redis):
    """A client for short commands. Do not send a blocking command: all later commands would wait until the blocking
    command ends.

    Each caller gets the answer to its command, or an error. Cancelling one caller does not affect the other callers.
    When the connection breaks, or an answer takes longer than `timeout` (seconds), all waiting commands fail, and the
    next command opens a new connection. A pipeline does not use the shared connection: it takes a connection from
    `pool`, which `aclose` closes. A caller waits for the shared connection only while the connection is being opened;
    `observe_wait` is called with the seconds of this wait.
    """

    def __init__(self, pool: ConnectionPool, *, observe_wait: Callable[[float], object], timeout: float) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self.pending = 0
        self._observe_wait = observe_wait
        self._timeout = timeout
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link] | None = None

    @property
    def is_connected(self) -> bool:
        return self._link is not None and not self._link.is_closed

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        packed = _pack(command)
        if self._link is None or self._link.is_closed:
            # This time-out bounds the opening of the connection and the wait for the answer together.
            async with asyncio.timeout(self._timeout):
                answer = await (await self._opened()).ask(packed)
        else:
            # `_Link` bounds the wait for the answer with one timer for all callers, because an `asyncio.timeout` for
            # each caller would cost 10 µs.
            answer = await self._link.ask(packed)
        options.pop("keys", None)  # redis-py passes `keys` for its client-side cache, which we do not use
        shape = self.response_callbacks.get(command[0])
        return shape(answer, **options) if shape else answer

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  as redis-py defines it
        if self._opening is not None:
            await asyncio.wait([self._opening])  # without this wait, the new connection would stay open
        if self._link is not None:
            await self._link.close()
        await super().aclose(close_connection_pool)

    async def _opened(self) -> "_Link":
        """Open the connection, and return it. Callers that wait at the same time share one attempt to open it.

        The attempt may outlive the request that started it. So the attempt's task does not inherit the request's
        context, which contains the request's deadline and log fields.
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), context=Context())
            self._opening.add_done_callback(self._has_opened)
        started = time.perf_counter()
        self.pending += 1
        try:
            return await asyncio.shield(self._opening)
        finally:
            self.pending -= 1
            self._observe_wait(time.perf_counter() - started)

    def _has_opened(self, opening: "asyncio.Task[_Link]") -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._link = opening.result()

    async def _open(self) -> "_Link":
        address = self.connection_pool.connection_kwargs
        password = address["password"]
        hello: tuple[Any, ...] = ("HELLO", 3, "AUTH", "default", password) if password else ("HELLO", 3)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                transport, link = await loop.create_connection(
                    lambda: _Link(self._timeout), address["host"], address["port"]
                )
                try:
                    await link.ask(_pack(hello))
                except BaseException:
                    transport.abort()  # without this call, the connection would stay open
                    raise
        except TimeoutError as error:
            raise RedisTimeoutError("Redis did not accept the connection in time") from error
        except OSError as error:
            raise RedisConnectionError(str(error)) from error
        return link


class _Link(asyncio.Protocol):
    """One connection to Redis, which answers commands in the order in which they were sent."""

    def __init__(self, timeout: float) -> None:
        self.is_closed = False
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_error, notEnoughData=_NOTHING)
        self._unsent: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._watch: asyncio.TimerHandle | None = None

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """Send the command with the next write. Returns a future for the command's answer."""
        answer = self._loop.create_future()
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append((packed, answer))
        return answer

    async def close(self) -> None:
        """Wait until each command has its answer or was cancelled, then close the connection."""
        if waiting := [answer for _, answer in (*self._unsent, *self._waiting)]:
            await asyncio.wait(waiting)
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (found := self._reader.gets()) is not _NOTHING:
            _, answer = self._waiting.popleft()
            if answer.done():
                continue  # the caller was cancelled, so the answer is dropped
            if isinstance(found, ResponseError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(RedisConnectionError(f"the connection to Redis was lost: {exc or 'closed by Redis'}"))

    def _send(self) -> None:
        """Send all unsent commands in one write, except the commands whose callers were cancelled."""
        unsent, self._unsent = [one for one in self._unsent if not one[1].done()], []
        if self.is_closed:
            for _, answer in unsent:
                answer.set_exception(RedisConnectionError("the connection to Redis was lost"))
            return
        now = self._loop.time()
        self._waiting.extend((now, answer) for _, answer in unsent)
        self._transport.write(b"".join([packed for packed, _ in unsent]))
        if self._watch is None and unsent:
            self._watch = self._loop.call_later(self._timeout, self._look)

    def _look(self) -> None:
        """Close the connection if the oldest command has waited for its answer for `timeout` seconds.

        One timer is enough: all commands have the same time-out, so the oldest command times out first.
        """
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0][0] + self._timeout - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
            return
        self._fail(RedisTimeoutError(f"Redis did not answer within {self._timeout:g} s"))
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        self.is_closed = True
        if self._watch is not None:
            self._watch.cancel()
        for _, answer in self._waiting:
            if not answer.done():
                answer.set_exception(error)
        self._waiting.clear()


def _pack(command: tuple[Any, ...]) -> bytes:
    """The command in Redis' wire format. redis-py's packing function takes three times as long.

    If a command's name has two words, such as "CONFIG GET", each word is sent as an argument.
    """
    name, *arguments = command
    try:
        packed: bytes = hiredis.pack_command((*name.split(), *arguments))
    except TypeError as error:
        raise DataError(str(error)) from error
    return packed


def _error(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
