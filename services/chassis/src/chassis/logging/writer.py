"""The writer: lines wait in a bounded queue, and a thread of its own writes them, so that no reader stalls the loop.

What finds the queue full is dropped and counted. A process that is killed loses what is in the queue, a fraction of a
second's lines while its reader keeps up; one that ends, or is told to, writes them first.
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

dropped_events = Counter("log_events_dropped", "Lines lost because the queue was full or stdout closed.", ["level"])

for _level in ("debug", "info", "warning", "error", "critical"):
    dropped_events.labels(_level)  # an alert on an increase needs a zero to start from

_SHARE_OF_LESSER_LINES = 0.9
"""Of the queue; the rest is for ERROR and CRITICAL, which are the last to be dropped."""
_SEVERE = frozenset({"error", "critical"})
_MAX_BATCH_BYTES = 65_536  # what a pipe holds: more would only be written in pieces
_COALESCE_SECONDS = 0.05
"""Lines of so long are written at once: a thread that is woken for each takes the interpreter from the event loop each
time, which costs a request more than all else that logging does.
"""

type Write = Callable[[bytes], object]


@dataclass(slots=True)
class _Batch:
    """Lines that are written at once, and the level of each; `size` in bytes."""

    lines: list[bytes] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, line: bytes, level: str) -> None:
        self.lines.append(line)
        self.levels.append(level)
        self.size += len(line)


class LineWriter:
    """Writes lines in the order in which they came. `write(data)` may block: only the thread waits for it.

    `on_recovered(dropped)` is called from the thread when a line could be written again after some were dropped.
    """

    def __init__(self, write: Write, *, max_bytes: int, on_recovered: Callable[[int], None]) -> None:
        self._write = write
        self._limits = {True: max_bytes, False: int(max_bytes * _SHARE_OF_LESSER_LINES)}
        self._on_recovered = on_recovered
        self._changed = threading.Condition()
        self._batches = deque([_Batch()])  # the last one takes the next line; those before it are full
        self._bytes = 0  # waiting and being written
        self._dropped = 0
        self._is_closing = False
        self._is_urgent = False  # somebody waits for what is in the queue
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, line: bytes, level: str) -> None:
        """Have the line written soon, or drop it: never waits for whoever reads."""
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
        """Wait until all lines are written, `seconds` at most; whether they are."""
        with self._changed:
            self._is_urgent = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._bytes == 0, seconds)

    def close(self, seconds: float) -> None:
        """Write what waits, `seconds` at most, and end the thread; later lines are dropped."""
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
                time.sleep(_COALESCE_SECONDS)  # there may be some again for the next lines

    def _write_out(self, batch: _Batch) -> None:
        is_written = False
        try:
            self._write(b"".join(batch.lines))
            is_written = True
        except (OSError, ValueError):
            pass  # what read stdout is gone, or it was closed: the service is worth more than its log
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
        """The next lines, as many as fit into a pipe at once; None once it is closed."""
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
    """A `write` for this stream: past its buffer to the file itself where there is one.

    The buffer has a lock, and a process cannot end while a thread that waits for its reader holds that.
    """
    try:
        descriptor = stream.fileno()
    except OSError:
        return stream.buffer.write

    def write(data: bytes) -> None:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # somebody who shares it has made it non-blocking
                select.select([], [descriptor], [])

    return write
