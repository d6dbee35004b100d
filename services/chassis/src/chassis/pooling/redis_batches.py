"""Commands of many callers in one round trip: what is asked in one turn of the event loop goes out as one pipeline.

A command on a connection of its own costs a checkout, two system calls and a turn of the loop. A process that
asks Redis twice in each request has many of them waiting at any moment, and here they share all that.
"""

import asyncio
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis
from redis.connection import HiredisRespSerializer
from redis.exceptions import ResponseError

_MAX_COMMANDS = 500
"""In one pipeline: a millisecond or two of Redis' time, far below the time-out that they share."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A command and who waits for its answer. A caller that is gone leaves a future that is done."""

    name: str
    packed: list[bytes]
    options: dict[str, Any]
    answer: asyncio.Future[Any]


class BatchingRedis(Redis):
    """A client for short commands, one pipeline at a time: nothing that blocks may be asked here.

    Each caller gets its own answer or error, in the order in which they asked. A caller that is cancelled changes
    nothing for the others. When the connection breaks or `timeout` (seconds) passes, all that were sent together
    fail, and the next ones go out on a new connection. Pipelines of a caller's own work as ever. It closes the pool.
    """

    def __init__(self, pool: ConnectionPool, *, timeout: float) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self._timeout = timeout
        self._packer = HiredisRespSerializer()
        self._waiting: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(command[0], self._packer.pack(*command), options, answer))
        if self._sender is None:
            # In a context of its own: it outlives the request that started it, and sends for others.
            self._sender = asyncio.create_task(self._send_waiting(), name="redis-batches", context=Context())
        return await answer

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  redis-py's signature
        if self._sender is not None:
            await asyncio.wait([self._sender])
        await super().aclose(close_connection_pool)

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MAX_COMMANDS], self._waiting[_MAX_COMMANDS:]
                await self._send([one for one in batch if not one.answer.done()])
        finally:
            self._sender = None

    async def _send(self, batch: list[_Waiting]) -> None:
        answers: list[Any]
        try:
            async with asyncio.timeout(self._timeout):
                answers = await self._round_trip(batch)
        except Exception as error:  # noqa: BLE001  it is raised where somebody waits for it
            answers = [error] * len(batch)
        for one, answer in zip(batch, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)

    async def _round_trip(self, batch: list[_Waiting]) -> list[Any]:
        """The answers in order; the connection closes itself when this is cut short, so that none is left in it."""
        connection: Connection = await self.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command([piece for one in batch for piece in one.packed])
            return [await self._read(connection, one) for one in batch]
        finally:
            await self.connection_pool.release(connection)

    async def _read(self, connection: Connection, one: _Waiting) -> Any:
        try:
            return await self.parse_response(connection, one.name, **one.options)
        except ResponseError as error:
            return error
