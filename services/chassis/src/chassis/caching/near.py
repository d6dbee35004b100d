"""What this process has read lately, so that what every request reads is not asked of Redis by each of them."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakValueDictionary

from chassis.caching.entries import Entry

MAX_KEYS = 1_000
"""The oldest goes first: at a kilobyte each it is a megabyte."""


class _State:
    """What the readers of a key share until it is forgotten. Those that begin after that share another one."""

    __slots__ = ("__weakref__",)


class Reading(NamedTuple):
    """A read that is under way: since when, and before which `forget`."""

    state: _State
    began: float


class Near:
    """Entries, each for `ttl` seconds after its read began; 0 keeps none.

    A process cannot invalidate the memory of another: this is for values that may be so many seconds older.
    """

    def __init__(self, *, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, tuple[Entry, float]] = OrderedDict()
        self._states: WeakValueDictionary[str, _State] = WeakValueDictionary()  # an entry lives while it is read

    def get(self, key: str) -> Entry | None:
        """The entry under `key`, if its read began less than `ttl` ago."""
        entry, until = self._entries.get(key, (None, 0.0))
        return entry if self._clock() < until else None

    def begin(self, key: str) -> Reading:
        """Call it before the read whose entry is `put`."""
        return Reading(self._states.setdefault(key, _State()), self._clock())

    def put(self, key: str, entry: Entry, reading: Reading) -> None:
        """Keep the entry, unless the key was forgotten after the reading began: it may be older than that."""
        if not self._ttl or self._states.get(key) is not reading.state:
            return
        self._entries[key] = entry, reading.began + self._ttl
        self._entries.move_to_end(key)
        if len(self._entries) > MAX_KEYS:
            self._entries.popitem(last=False)

    def forget(self, key: str) -> None:
        """Forget the entry, and the one of every read that is under way."""
        self._entries.pop(key, None)
        self._states.pop(key, None)
