"""What this process has read lately, so that what every request reads is not asked of Redis by each of them."""

import time
from collections import OrderedDict
from collections.abc import Callable

from chassis.caching.entries import Entry

MAX_KEYS = 1_000
"""The oldest goes first: at a kilobyte each it is a megabyte."""


class Near:
    """Entries for `ttl` seconds each; 0 keeps none.

    Nobody can invalidate another process's memory: this is for values that may be so many seconds older.
    """

    def __init__(self, *, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, tuple[Entry, float]] = OrderedDict()

    def get(self, key: str) -> Entry | None:
        """What was put under `key` less than `ttl` ago."""
        entry, until = self._entries.get(key, (None, 0.0))
        return entry if self._clock() < until else None

    def put(self, key: str, entry: Entry) -> None:
        if not self._ttl:
            return
        self._entries[key] = entry, self._clock() + self._ttl
        self._entries.move_to_end(key)
        if len(self._entries) > MAX_KEYS:
            self._entries.popitem(last=False)

    def forget(self, key: str) -> None:
        self._entries.pop(key, None)
