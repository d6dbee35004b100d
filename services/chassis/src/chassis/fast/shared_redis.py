"""Replaces redis-py's pool for short commands: many callers share one connection, and their commands one write.

A command on a connection of its own costs a checkout, two system calls, a task's wake-ups and three time-outs. A
process that sends Redis two commands in each request has many of them waiting at any moment, and here they share that.
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
    """A client for short commands: nothing that blocks may be asked here, since all others wait behind it.

    Each caller gets its own answer or error. A caller that is cancelled changes nothing for the others. When the
    connection breaks, or an answer takes longer than `timeout` (seconds), all that wait on it fail, and the next
    command opens another. A pipeline of a caller's own has a connection of `pool`, which this client closes, too.
    Callers wait for the connection only while it is opened; `observe_wait` gets the seconds.
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
            async with asyncio.timeout(self._timeout):  # around both: opening takes part of the same time
                answer = await (await self._opened()).ask(packed)
        else:
            answer = await self._link.ask(packed)  # `_Link` watches the time: a timeout of each caller's costs 10 µs
        options.pop("keys", None)  # they tell redis-py's own cache what was read
        shape = self.response_callbacks.get(command[0])
        return shape(answer, **options) if shape else answer

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  redis-py's signature
        if self._opening is not None:
            await asyncio.wait([self._opening])  # who waits for it is answered, and it is closed with the rest
        if self._link is not None:
            await self._link.close()
        await super().aclose(close_connection_pool)

    async def _opened(self) -> "_Link":
        """One attempt for all that wait, in a context of its own: it outlives the request that started it."""
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
                    transport.abort()  # it is nobody's, and would stay open
                    raise
        except TimeoutError as error:
            raise RedisTimeoutError("Redis did not let us in in time") from error
        except OSError as error:
            raise RedisConnectionError(str(error)) from error
        return link


class _Link(asyncio.Protocol):
    """A connection: commands out, answers in, in the same order."""

    def __init__(self, timeout: float) -> None:
        self.is_closed = False
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_error, notEnoughData=_NOTHING)
        self._unsent: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._watch: asyncio.TimerHandle | None = None

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """The answer to a command."""
        answer = self._loop.create_future()
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append((packed, answer))
        return answer

    async def close(self) -> None:
        """Wait for the answers that somebody waits for, then close the connection."""
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
                continue  # its caller has gone
            if isinstance(found, ResponseError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(RedisConnectionError(f"the connection to Redis was lost: {exc or 'closed by Redis'}"))

    def _send(self) -> None:
        """Write what was asked in this turn, but for what nobody waits for any more."""
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
        """Give the connection up when its oldest answer is overdue. One timer watches all: none is overdue sooner."""
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
    """As redis-py does it, which takes three times as long: "CONFIG GET" are two words."""
    name, *arguments = command
    try:
        packed: bytes = hiredis.pack_command((*name.split(), *arguments))
    except TypeError as error:
        raise DataError(str(error)) from error
    return packed


def _error(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
