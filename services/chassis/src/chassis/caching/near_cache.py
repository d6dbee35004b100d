"""A small in-process cache in front of Redis for keys that most requests read."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakValueDictionary

from chassis.caching.entries import Entry

MAX_KEYS = 1_000
"""A cache with more keys drops the oldest one. Entries of a kilobyte then take a megabyte in all."""


class _Generation:
    """Marks the reads of a key that began between two `forget` calls: these reads share one object of this class."""

    __slots__ = ("__weakref__",)


class Reading(NamedTuple):
    """A read under way: its key's generation, and when it began (monotonic seconds)."""

    generation: _Generation
    began: float


class NearCache:
    """Caches each entry for `ttl` seconds after its read began. With a `ttl` of 0 it caches nothing.

    A process cannot invalidate the memory of another process. Use this cache only for values that may be out of date by
    `ttl` seconds.
    """

    def __init__(self, *, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, tuple[Entry, float]] = OrderedDict()
        # Only `Reading` objects refer to a generation, so a generation disappears with its last reading.
        self._generations: WeakValueDictionary[str, _Generation] = WeakValueDictionary()

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, if its read began less than `ttl` seconds ago."""
        entry, until = self._entries.get(key, (None, 0.0))
        return entry if self._clock() < until else None

    def begin(self, key: str) -> Reading:
        """Call this before a read, and pass its result to `put` together with the entry."""
        return Reading(self._generations.setdefault(key, _Generation()), self._clock())

    def put(self, key: str, entry: Entry, reading: Reading) -> None:
        """Cache the entry. If `forget` was called after the reading began, drop the entry: it may be out of date."""
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
