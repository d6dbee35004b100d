"""The calls from which the breaker computes its rates. This module does no I/O."""

from collections import deque


class Window:
    """The latest calls: at most `size`, and none older than `seconds`. Adding a call takes amortised constant time."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._entries: deque[tuple[float, bool, bool]] = deque()
        self.failed = self.slow = 0

    @property
    def calls(self) -> int:
        return len(self._entries)

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        self._entries.append((now, failed, slow))
        self.failed += failed
        self.slow += slow
        while len(self._entries) > self._size or self._entries[0][0] <= now - self._seconds:
            _, failed, slow = self._entries.popleft()
            self.failed -= failed
            self.slow -= slow

    def clear(self) -> None:
        self._entries.clear()
        self.failed = self.slow = 0
