"""One address for clients, behind which the port of the serving process changes: a small load balancer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from holdfast_local.ports import LOOPBACK

_CHUNK = 65_536


class Address:
    """New connections go to `port`; a connection that is open stays with its process until that closes it."""

    def __init__(self) -> None:
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def at(cls, listened: int) -> AsyncIterator[Self]:
        address = cls()
        server = await asyncio.start_server(address._serve, LOOPBACK, listened)
        try:
            yield address
        finally:
            server.close()
            server.close_clients()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            writer.close()  # the process is not there: the client sees a closed connection, as on a cluster
            return
        await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the sender ends, whose end is then passed on, too."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
