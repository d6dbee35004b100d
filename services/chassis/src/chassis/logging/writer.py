"""The writer: lines wait in a bounded queue, and a thread writes them. So a slow reader of the log, such as
the container runtime, cannot block the event loop.

If the queue is full, a new line is dropped and counted. A process that is killed loses the lines in the queue: these
are the lines of a fraction of a second, if the reader of the log keeps up. A process that ends in any other way writes
the queued lines first.
"""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from prometheus_client import Counter

dropped_events = Counter(
    "log_events_dropped", "Lines that were lost because the queue was full or stdout was closed.", ["level"]
)

for _level in ("debug", "info", "warning", "error", "critical"):
    # This call exports the value 0, so that an alert sees the first dropped line as an increase.
    dropped_events.labels(_level)

_SHARE_OF_LESSER_LINES = 0.9
"""The share of the queue that lines below ERROR may fill. The rest is reserved for ERROR and CRITICAL, which are
dropped last.
"""
_SEVERE = frozenset({"error", "critical"})
_MAX_BATCH_BYTES = 65_536
"""The largest size, in bytes, of a batch of lines that are written together: the capacity of a pipe. A larger batch
would be written in several pieces.
"""
_COALESCE_SECONDS = 0.05
"""The thread collects lines for this many seconds and writes them together. If the thread woke for each line, it would
take the GIL from the event loop each time. These wake-ups would cost a request more time than the rest of logging does.
"""

type Write = Callable[[bytes], object]


@dataclass(slots=True)
class _Batch:
    """Lines that are written together, and the level of each. `size` is in bytes."""

    lines: list[bytes] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, line: bytes, level: str) -> None:
        self.lines.append(line)
        self.levels.append(level)
        self.size += len(line)


class LineWriter:
    """Writes lines in their order. `write(data)` may block, because only the thread of the writer calls it.

    After lines were dropped, the thread calls `on_recovered(dropped)` as soon as it can write again.
    """

    def __init__(self, write: Write, *, max_bytes: int, on_recovered: Callable[[int], None]) -> None:
        self._write = write
        self._limits = {True: max_bytes, False: int(max_bytes * _SHARE_OF_LESSER_LINES)}
        self._on_recovered = on_recovered
        self._changed = threading.Condition()
        self._batches = deque([_Batch()])  # the next line goes into the last batch; the batches before it are full
        self._bytes = 0  # bytes of the lines that wait or are being written
        self._dropped = 0
        self._is_closing = False
        self._is_urgent = False  # if True, `flush` waits, and the thread writes at once, without collecting more lines
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, line: bytes, level: str) -> None:
        """Queue the line, or drop it if the queue is full. This method never waits for the reader of the log."""
        with self._changed:
            if self._bytes + len(line) > self._limits[level in _SEVERE] or self._is_closing:
                self._drop(level)
                return
            last = self._batches[-1]
            is_first, is_full = self._bytes == 0, last.size > 0 and last.size + len(line) > _MAX_BATCH_BYTES
            if is_full:
                last = _Batch()
                self._batches.append(last)
            last.add(line, level)
            self._bytes += len(line)
            if is_first or is_full:
                self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all lines are written, for `seconds` at most. Returns whether all of them are written."""
        with self._changed:
            self._is_urgent = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._bytes == 0, seconds)

    def close(self, seconds: float) -> None:
        """Write the waiting lines, for `seconds` at most, and end the thread. Lines that come later are dropped."""
        self.flush(seconds)
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(0 if self._bytes else seconds)

    def _drop(self, level: str) -> None:
        self._dropped += 1
        dropped_events.labels(level).inc()

    def _run(self) -> None:
        while True:
            try:
                batch = self._next_batch()
                if batch is None:
                    return
                self._write_out(batch)
            except MemoryError:
                time.sleep(_COALESCE_SECONDS)  # the thread goes on, because later lines may find enough memory

    def _write_out(self, batch: _Batch) -> None:
        is_written = False
        try:
            self._write(b"".join(batch.lines))
            is_written = True
        except (OSError, ValueError):
            pass  # stdout, or the reading end of its pipe, is closed: the service goes on without its log
        finally:
            self._settle(batch, is_written=is_written)

    def _settle(self, batch: _Batch, *, is_written: bool) -> None:
        with self._changed:
            self._bytes -= batch.size
            dropped = 0
            if is_written:
                dropped, self._dropped = self._dropped, 0
            else:
                for level in batch.levels:
                    self._drop(level)
            self._changed.notify_all()
        if dropped:
            self._on_recovered(dropped)

    def _next_batch(self) -> _Batch | None:
        """The next batch of lines, which fits into a pipe. The result is None if the writer is closed and all lines are
        written.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._batches[0].lines or self._is_closing)
            self._changed.wait_for(self._is_due, _COALESCE_SECONDS)
            self._is_urgent = False
            batch = self._batches.popleft()
            if not self._batches:
                self._batches.append(_Batch())
            return batch if batch.lines else None

    def _is_due(self) -> bool:
        return self._is_urgent or self._is_closing or len(self._batches) > 1


def write_to(stream: TextIO) -> Write:
    """A `write` function for this stream. It bypasses the stream's buffer if the stream has a file descriptor.

    The buffer has a lock. A process cannot end while a thread holds this lock and waits for the reader of the stream.
    """
    try:
        descriptor = stream.fileno()
    except OSError:
        return stream.buffer.write

    def write(data: bytes) -> None:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # another process with the same descriptor has made the descriptor non-blocking
                select.select([], [descriptor], [])

    return write
