"""A TCP proxy that can fall silent: connections stay open, and nothing passes on them any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from chassis.config.settings import DatabaseSettings
from proxying import listening, pass_on


class FreezingProxy:
    """In front of a database, until `freeze()` or `forget()`; `thaw()` lets through what was held back."""

    def __init__(self, target: DatabaseSettings) -> None:
        self._target = target
        self._flowing: list[asyncio.Event] = []
        self._begin()

    def _begin(self) -> None:
        flowing = asyncio.Event()
        flowing.set()
        self._flowing.append(flowing)

    def freeze(self) -> None:
        """From now on nothing passes; new connections are taken."""
        self._flowing[-1].clear()

    def thaw(self) -> None:
        """All passes again, and first what was sent meanwhile."""
        self._flowing[-1].set()

    def forget(self) -> None:
        """On connections that are open nothing passes any more, as after a router's restart; on new ones all does."""
        self.freeze()
        self._begin()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port it listens on."""
        async with listening(self._serve) as port:
            try:
                yield port
            finally:
                for flowing in self._flowing:
                    flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(self._target.host, self._target.port)
        flowing = self._flowing[-1]
        await pass_on(
            self._pump(flowing, reader, target_writer),
            self._pump(flowing, target_reader, writer),
            ends=(writer, target_writer),
        )

    async def _pump(self, flowing: asyncio.Event, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                await flowing.wait()
                sink.write(data)
                await sink.drain()
