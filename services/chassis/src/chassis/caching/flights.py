"""The loads under way in this process: one per key. Readers that need the same value share one load ("flight")."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import NamedTuple

from chassis.caching.entries import Entry


class Loaded(NamedTuple):
    """The result of a load.

    A reader that began at `covers` (monotonic seconds) or earlier may use the result: the load has seen every
    invalidation that was complete at that time.
    """

    entry: Entry
    covers: float


type Load = Callable[[], Coroutine[None, None, Loaded]]


class Flights:
    """The loads by key. A load runs to its end even if its reader is cancelled, because others may wait for it."""

    def __init__(self) -> None:
        self._by_key: dict[str, asyncio.Task[Loaded]] = {}  # the loads that readers may still join
        self._tasks: set[asyncio.Task[Loaded]] = set()

    async def share(self, key: str, load: Load, *, began: float) -> Entry:
        """The entry from the load under way for `key`. Starts `load` if there is none. Raises the load's error.

        `began` is the time at which the reader began. If the load may have missed an invalidation before that time, the
        reader joins the next load.
        """
        while True:
            loaded = await asyncio.shield(self.start(key, load))
            if began <= loaded.covers:
                return loaded.entry

    def start(self, key: str, load: Load) -> asyncio.Task[Loaded]:
        """The load under way for `key`; starts `load` if there is none."""
        flight = self._by_key.get(key)
        # A finished load stays in `_by_key` until the event loop's next turn. Awaiting a finished load does not yield
        # to the loop, so `share` would join it again and again, and the next turn would never come.
        if flight is None or flight.done():
            flight = self._by_key[key] = asyncio.create_task(load())
            self._tasks.add(flight)
            flight.add_done_callback(partial(self._landed, key))
        return flight

    def forget(self, key: str) -> None:
        """Prevent further readers from joining the load of `key`."""
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
            flight.exception()  # marks an error as retrieved; otherwise asyncio logs it if no reader is left
