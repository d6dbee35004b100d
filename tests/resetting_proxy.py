"""A TCP proxy that resets connections at random moments: the other side gets an RST instead of an end."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from holdfast_local.ports import LOOPBACK

_AT_ONCE = struct.pack("ii", 1, 0)
"""Linger for no time: closing sends an RST."""


class ResettingProxy:
    """`resets` counts the connections that it has reset. Between two of them there are at most `pause` seconds."""

    def __init__(self, *, host: str, port: int, pause: float, seed: int = 1) -> None:
        self._target = (host, port)
        self._pause = pause
        self._random = random.Random(seed)
        self._clients: list[asyncio.StreamWriter] = []
        self.resets = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port it listens on."""
        server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        resetting = asyncio.create_task(self._reset_some())
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            resetting.cancel()
            server.close()
            server.close_clients()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(*self._target)
        self._clients.append(writer)
        pumps = [
            asyncio.create_task(_pump(reader, target_writer)),
            asyncio.create_task(_pump(target_reader, writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self._clients.remove(writer)
        writer.close()
        target_writer.close()

    async def _reset_some(self) -> None:
        while True:
            await asyncio.sleep(self._random.random() * self._pause)
            if self._clients:
                self._reset(self._random.choice(self._clients))

    def _reset(self, client: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # it has just been closed
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        client.transport.abort()
        self.resets += 1


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
