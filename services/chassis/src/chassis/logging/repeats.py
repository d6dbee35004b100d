"""Repeats: in each time window only the first few lines of the same warning are written. Further lines are only
counted.

In an outage every request logs the same warning, and the first few of these lines are enough to see the problem. Other
levels are never held back: an INFO line is a business event, an ERROR means that something was lost, and DEBUG was
turned on by a developer.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter

suppressed_events = Counter(
    "log_events_suppressed", "Lines that were not written because they repeat, by level.", ["level"]
)

suppressed_events.labels("warning")

_MAX_KEYS = 1000
"""The largest number of keys (pairs of a logger and an event) in memory. Messages of libraries may contain values, so
the number of different messages has no other limit. This project itself has only a few dozen event names.
"""


@dataclass(slots=True)
class _Window:
    started_at: float
    written: int = 0
    suppressed: int = 0


class Repeats:
    """Admits `limit` lines in each `window` (seconds), per key (logger and event). Safe to use from several threads."""

    def __init__(self, *, limit: int, window: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, key: tuple[str, str]) -> int | None:
        """The number of lines that were suppressed since the last admitted line, or None if this line is suppressed,
        too.
        """
        now = self._clock()
        with self._lock:
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = _Window(now)
                if len(self._windows) > _MAX_KEYS:
                    self._windows.popitem(last=False)
            elif now - window.started_at >= self._window:
                window.started_at, window.written = now, 0
            if window.written >= self._limit:
                window.suppressed += 1
                suppressed_events.labels("warning").inc()
                return None
            window.written += 1
            suppressed, window.suppressed = window.suppressed, 0
            return suppressed

    def pending(self) -> dict[tuple[str, str], int]:
        """The number of suppressed lines that no later line has reported yet, by key. This call resets these numbers to
        0.
        """
        with self._lock:
            counts = {key: window.suppressed for key, window in self._windows.items() if window.suppressed}
            for key in counts:
                self._windows[key].suppressed = 0
        return counts
