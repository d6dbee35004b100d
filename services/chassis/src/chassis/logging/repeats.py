"""Repeats: of the same warning a few are written in each window, the others counted.

An outage makes every request say the same. Only warnings are held back: an INFO line is a business event, an ERROR
means that someone lost something, and DEBUG was asked for.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter

suppressed_events = Counter("log_events_suppressed", "Warnings not written because they repeat, by level.", ["level"])

suppressed_events.labels("warning")

_MAX_KEYS = 1000  # a library may put values into its messages; ours have a few dozen names


@dataclass(slots=True)
class _Window:
    started_at: float
    written: int = 0
    suppressed: int = 0


class Repeats:
    """Decides per key (logger and event): `limit` lines are written in `window` seconds, then none until it is over.

    Safe to use from several threads.
    """

    def __init__(self, *, limit: int, window: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, key: tuple[str, str]) -> int | None:
        """How many were suppressed since the last one written; None when this one is suppressed, too."""
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
        """What was suppressed and is on no line yet, by key; it counts as told from now on."""
        with self._lock:
            told = {key: window.suppressed for key, window in self._windows.items() if window.suppressed}
            for key in told:
                self._windows[key].suppressed = 0
        return told
