"""The loads under way in this process: one per key, shared by all who need its value and began early enough."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import NamedTuple

from chassis.caching.entries import Entry


class Loaded(NamedTuple):
    """What a load gave. Whoever began to read by `covers` (monotonic seconds) may have it: no invalidation had been
    completed by then that it has not seen.
    """

    entry: Entry
    covers: float


type Load = Callable[[], Coroutine[None, None, Loaded]]


class Flights:
    """A load runs to its end, whoever waits for it: a reader that is cancelled leaves it to the others."""

    def __init__(self) -> None:
        self._by_key: dict[str, asyncio.Task[Loaded]] = {}  # what readers may still join
        self._tasks: set[asyncio.Task[Loaded]] = set()

    async def share(self, key: str, load: Load, *, began: float) -> Entry:
        """The entry of the load under way for `key`, or of this one; raises what the load raises.

        A reader that joined a load older than itself may find that it was overtaken by an invalidation, and goes on to
        the next one, which is younger.
        """
        while True:
            loaded = await asyncio.shield(self.start(key, load))
            if began <= loaded.covers:
                return loaded.entry

    def start(self, key: str, load: Load) -> asyncio.Task[Loaded]:
        """The load of `key`, begun unless there is one."""
        flight = self._by_key.get(key)
        # One that is over is still there until the loop's next turn, and who waited for it in a loop would never end.
        if flight is None or flight.done():
            flight = self._by_key[key] = asyncio.create_task(load())
            self._tasks.add(flight)
            flight.add_done_callback(partial(self._landed, key))
        return flight

    def forget(self, key: str) -> None:
        """Nobody may join the load of `key` from now on."""
        self._by_key.pop(key, None)

    async def close(self) -> None:
        """End all loads."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: str, flight: asyncio.Task[Loaded]) -> None:
        self._tasks.discard(flight)
        if self._by_key.get(key) is flight:
            del self._by_key[key]
        if not flight.cancelled():
            flight.exception()  # seen, also when every reader has gone
