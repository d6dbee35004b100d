"""HTTP as bytes: what an attacker sends is no client library's to correct."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

LOOPBACK = "127.0.0.1"
PATIENCE = 10.0
"""Seconds for an answer that has to come: above every time-out of a test, so that a busy machine does not reach it."""


class Answer(NamedTuple):
    """One answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawConnection:
    """A connection to a port of this machine. Every read has `PATIENCE` seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int, *, receive_buffer: int | None = None) -> AsyncIterator[Self]:
        """`receive_buffer` is in bytes: with a small one, a client that does not read is felt by the server soon."""
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (LOOPBACK, port))
        # The limit is low, so that a connection that is not read from leaves the rest to the kernel.
        reader, writer = await asyncio.open_connection(sock=client, limit=4096)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def send(self, *pieces: bytes) -> None:
        """Send the pieces one after the other; raises `ConnectionError` once the server has closed the connection."""
        for piece in pieces:
            self._writer.write(piece)
            await asyncio.wait_for(self._writer.drain(), PATIENCE)

    async def flood(self, piece: bytes, *, times: int) -> int | None:
        """Send the piece again and again: how many bytes the server let through before it closed the connection, or
        None when it took them all.
        """
        for sent in range(times):
            try:
                await self.send(piece)
            except ConnectionError:
                return sent * len(piece)
        return None

    async def answer(self, *, to: bytes = b"GET") -> Answer | None:
        """The next answer, or None when the connection ends before one. The answer to HEAD has no body."""
        head = await self._head()
        if head is None:
            return None
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        length = 0 if to == b"HEAD" else int(headers.get("content-length", "0"))
        body = await asyncio.wait_for(self._reader.readexactly(length), PATIENCE)
        return Answer(int(line.split(" ", 2)[1]), headers, body)

    async def answers(self, *, pause: float = 0) -> list[Answer]:
        """All answers until the server ends the connection, with a pause (seconds) after each."""
        found = []
        while (one := await self.answer()) is not None:
            found.append(one)
            await asyncio.sleep(pause)
        return found

    async def _head(self) -> bytes | None:
        try:
            return (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE))[:-4]
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


async def exchange(port: int, *pieces: bytes) -> list[Answer]:
    """All that is answered to these bytes until the server ends the connection: the last request has to ask for that,
    or be one that is refused.
    """
    async with RawConnection.to(port) as connection:
        await connection.send(*pieces)
        return await connection.answers()
