"""The loads under way in this process: one per key. Readers that need the same value share one load ("flight")."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import NamedTuple

from chassis.caching.entries import Entry


class Loaded(NamedTuple):
    """The result of a load.

    A reader that began by `covers` (monotonic seconds) may use it: the load has seen every invalidation that was
    complete by then.
    """

    entry: Entry
    covers: float


type Load = Callable[[], Coroutine[None, None, Loaded]]


class Flights:
    """Loads by key. A load runs to its end even if its reader is cancelled, for the other readers that wait for it."""

    def __init__(self) -> None:
        self._by_key: dict[str, asyncio.Task[Loaded]] = {}  # the loads that readers may still join
        self._tasks: set[asyncio.Task[Loaded]] = set()

    async def share(self, key: str, load: Load, *, began: float) -> Entry:
        """The entry from the load under way for `key`, or else from `load`. Raises the load's error.

        `began` is when the reader began. If an invalidation overtook the load that the reader joined, the reader joins
        the next load, which is younger.
        """
        while True:
            loaded = await asyncio.shield(self.start(key, load))
            if began <= loaded.covers:
                return loaded.entry

    def start(self, key: str, load: Load) -> asyncio.Task[Loaded]:
        """The load under way for `key`; starts `load` if there is none."""
        flight = self._by_key.get(key)
        # A finished load stays listed until the loop's next turn, and awaiting it does not yield to the loop. `share`
        # would then join it again and again, and that turn would never come.
        if flight is None or flight.done():
            flight = self._by_key[key] = asyncio.create_task(load())
            self._tasks.add(flight)
            flight.add_done_callback(partial(self._landed, key))
        return flight

    def forget(self, key: str) -> None:
        """Let no further reader join the load of `key`."""
        self._by_key.pop(key, None)

    async def close(self) -> None:
        """Cancel all loads."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: str, flight: asyncio.Task[Loaded]) -> None:
        self._tasks.discard(flight)
        if self._by_key.get(key) is flight:
            del self._by_key[key]
        if not flight.cancelled():
            flight.exception()  # retrieve it: asyncio logs an unretrieved error if every reader has gone
