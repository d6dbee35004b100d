"""The loads under way in this process: one per key. Readers that need the same value share one load ("flight")."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import NamedTuple

from chassis.caching.entries import Entry


class Loaded(NamedTuple):
    """The result of a load.

    `covers` is a monotonic time in seconds: the entry contains every change of the origin (usually the database) whose
    invalidation was complete before `covers`. A reader needs every change whose invalidation was complete before the
    reader began to read the cache. So the reader may use the entry if it began at `covers` or earlier.
    """

    entry: Entry
    covers: float


type Load = Callable[[], Coroutine[None, None, Loaded]]


class Flights:
    """The loads by key. A load continues when its reader is cancelled, because other readers may wait for the load."""

    def __init__(self) -> None:
        self._by_key: dict[str, asyncio.Task[Loaded]] = {}  # the loads that readers may still join
        self._tasks: set[asyncio.Task[Loaded]] = set()

    async def share(self, key: str, load: Load, *, began: float) -> Entry:
        """Wait for the load of `key` that is under way, or start `load` if there is none. Returns the load's entry.

        `began` is the monotonic time at which the caller began to read the cache. If a change was invalidated before
        that time, but the load's entry may lack the change, this method waits for the next load. Raises the load's
        error.
        """
        while True:
            loaded = await asyncio.shield(self.start(key, load))
            if began <= loaded.covers:
                return loaded.entry

    def start(self, key: str, load: Load) -> asyncio.Task[Loaded]:
        """The task of the load of `key` that is under way. Starts `load` if no load is under way."""
        flight = self._by_key.get(key)
        # A finished load stays in `_by_key` until the event loop runs the callback `_landed`, and awaiting a finished
        # load does not yield to the event loop. Suppose that `share` joined a finished load whose entry is too old for
        # the reader. Then the loop in `share` would join this load again and again, and the event loop could never run
        # `_landed`.
        if flight is None or flight.done():
            flight = self._by_key[key] = asyncio.create_task(load())
            self._tasks.add(flight)
            flight.add_done_callback(partial(self._landed, key))
        return flight

    def forget(self, key: str) -> None:
        """Prevent further readers from joining the load of `key` that is under way."""
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
            flight.exception()  # without this call, asyncio would log the error if no reader awaits the load
