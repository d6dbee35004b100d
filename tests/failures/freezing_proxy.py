"""A TCP proxy that can fall silent: connections stay open, new ones are taken, and nothing passes any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from chassis.settings import DatabaseSettings
from proxying import listening, pass_on


class FreezingProxy:
    """In front of a database, until `freeze()`."""

    def __init__(self, target: DatabaseSettings) -> None:
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()

    def freeze(self) -> None:
        self._flowing.clear()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port it listens on."""
        async with listening(self._serve) as port:
            try:
                yield port
            finally:
                self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(self._target.host, self._target.port)
        await pass_on(
            self._pump(reader, target_writer), self._pump(target_reader, writer), ends=(writer, target_writer)
        )

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
