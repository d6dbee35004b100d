"""A small in-process cache in front of Redis for keys that most requests read."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakValueDictionary

from chassis.caching.entries import Entry

MAX_KEYS = 1_000
"""Beyond this number the oldest key is dropped. At a kilobyte per entry this is a megabyte."""


class _Generation:
    """Marks the reads of a key that began between two `forget` calls. They share one object, compared by identity."""

    __slots__ = ("__weakref__",)


class Reading(NamedTuple):
    """A read under way: its key's generation, and when it began (monotonic seconds)."""

    generation: _Generation
    began: float


class NearCache:
    """Entries, each for `ttl` seconds after its read began; a `ttl` of 0 caches none.

    A process cannot invalidate the memory of another process. Use it only for values that may be `ttl` seconds older.
    """

    def __init__(self, *, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, tuple[Entry, float]] = OrderedDict()
        # Only the readings refer to a generation, so it disappears with the last of them.
        self._generations: WeakValueDictionary[str, _Generation] = WeakValueDictionary()

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, if its read began less than `ttl` seconds ago."""
        entry, until = self._entries.get(key, (None, 0.0))
        return entry if self._clock() < until else None

    def begin(self, key: str) -> Reading:
        """Call this before the read whose entry is then `put`."""
        return Reading(self._generations.setdefault(key, _Generation()), self._clock())

    def put(self, key: str, entry: Entry, reading: Reading) -> None:
        """Cache the entry, unless `forget` was called after the reading began: the entry may be older than that."""
        if not self._ttl or self._generations.get(key) is not reading.generation:
            return
        self._entries[key] = entry, reading.began + self._ttl
        self._entries.move_to_end(key)
        if len(self._entries) > MAX_KEYS:
            self._entries.popitem(last=False)

    def forget(self, key: str) -> None:
        """Drop the entry, and refuse the entries of all reads that are under way."""
        self._entries.pop(key, None)
        self._generations.pop(key, None)
