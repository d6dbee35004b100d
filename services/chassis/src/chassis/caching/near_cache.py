"""A small in-process cache in front of Redis for keys that most requests read."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakValueDictionary

from chassis.caching.entries import Entry

MAX_KEYS = 1_000
"""The largest number of entries in memory. Entries of a kilobyte each take a megabyte in all. When the cache has more
entries, it drops the entry that `put` stored the longest time ago.
"""


class _Generation:
    """A mark that distinguishes the reads of a key before and after a call of `forget`. All reads that begin between
    two calls of `forget` share one `_Generation` object, so `put` finds out whether `forget` was called after a read
    began.
    """

    __slots__ = ("__weakref__",)


class Reading(NamedTuple):
    """A read under way: the key's `_Generation` and the time (monotonic seconds) when the read began."""

    generation: _Generation
    began: float


class NearCache:
    """A cache that holds each entry until `ttl` seconds after the read that fetched the entry began. With a `ttl` of 0,
    the cache holds no entries.

    A process cannot invalidate the memory of another process. Use this cache only for values that may be out of date by
    `ttl` seconds.
    """

    def __init__(self, *, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, tuple[Entry, float]] = OrderedDict()
        # This dictionary holds weak references. Only `Reading` objects hold strong references to a generation, so
        # Python removes a generation from this dictionary together with its last `Reading`.
        self._generations: WeakValueDictionary[str, _Generation] = WeakValueDictionary()

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, if the read that fetched the entry began less than `ttl` seconds ago."""
        entry, until = self._entries.get(key, (None, 0.0))
        return entry if self._clock() < until else None

    def begin(self, key: str) -> Reading:
        """Call `begin` before a read of `key`, and pass the returned `Reading` to `put` together with the entry."""
        return Reading(self._generations.setdefault(key, _Generation()), self._clock())

    def put(self, key: str, entry: Entry, reading: Reading) -> None:
        """Cache the entry, unless `forget` was called after `reading` began: the entry may then be out of date."""
        if not self._ttl or self._generations.get(key) is not reading.generation:
            return
        self._entries[key] = entry, reading.began + self._ttl
        self._entries.move_to_end(key)
        if len(self._entries) > MAX_KEYS:
            self._entries.popitem(last=False)

    def forget(self, key: str) -> None:
        """Drop the entry of `key`. `put` then refuses the entries of all reads of `key` that are under way."""
        self._entries.pop(key, None)
        self._generations.pop(key, None)
