"""A TCP proxy in front of PostgreSQL that can lose the answer to a COMMIT: the one moment no signal can be aimed at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from holdfast_local.ports import LOOPBACK
from proxying import listening, pass_on

# A simple query: type Q, length, text, NUL (https://www.postgresql.org/docs/current/protocol-message-formats.html).
COMMITS = (b"Q\x00\x00\x00\x0cCOMMIT;\x00", b"Q\x00\x00\x00\x0bCOMMIT\x00")
"""The driver's own transactions end with a semicolon, those of a session without."""


class SeveringProxy:
    """Passes everything on. After `arm()`, the next COMMIT reaches the server, whose answer is kept back: `committed`
    is set once it has come, and the connection stands still until `sever()` ends it.
    """

    def __init__(self, *, target_port: int) -> None:
        self._target_port = target_port
        self._is_armed = False
        self._severed = asyncio.Event()
        self.committed = asyncio.Event()

    def arm(self) -> None:
        self._is_armed = True
        self._severed.clear()
        self.committed.clear()

    def sever(self) -> None:
        self._is_armed = False
        self._severed.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port it listens on."""
        async with listening(self._serve) as port:
            try:
                yield port
            finally:
                self.sever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
        except OSError:
            writer.close()
            return
        connection = _Connection(self)
        await pass_on(
            connection.pass_requests(reader, target_writer),
            connection.pass_answers(target_reader, writer),
            ends=(writer, target_writer),
        )

    def takes(self, request: bytes) -> bool:
        """Whether this request is the COMMIT that it was armed for."""
        is_taken = self._is_armed and any(commit in request for commit in COMMITS)
        self._is_armed = self._is_armed and not is_taken
        return is_taken

    async def keep_back(self) -> None:
        self.committed.set()
        await self._severed.wait()


class _Connection:
    def __init__(self, proxy: SeveringProxy) -> None:
        self._proxy = proxy
        self._is_taken = False

    async def pass_requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                self._is_taken = self._is_taken or self._proxy.takes(data)
                sink.write(data)
                await sink.drain()

    async def pass_answers(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if self._is_taken:
                    await self._proxy.keep_back()
                    return
                sink.write(data)
                await sink.drain()
