"""The end of a process: after a signal or a failure, the process ends within a known time.

A process is in one of three states. The state decides how the process ends:

    starting   ── signal ─────────▶ the process ends at once, because no work is under way
    working    ── signal ─────────▶ the process finishes its work, or hands it back, and ends within a time limit
               ── second signal ──▶ the process ends at once
               ── a part fails ───▶ the process ends within the same time limit
    closed     ───────────────────▶ the process ends within `EXIT_SECONDS`

A thread enforces these limits, because the event loop may be blocked. The thread runs from the start, because a process
that is out of memory cannot start a thread. If code holds the interpreter's lock, this thread cannot run either; then
`chassis.process.watchdog` ends the process.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import FrameType

from chassis.errors import HoldfastError
from chassis.logging import flush_logs, get_logger

log = get_logger(__name__)

EXIT_SECONDS = 10.0
"""The time that a process has after it has closed everything, to join threads, export spans and write its last log
lines."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

type WorkLeft = Callable[[], Mapping[str, object]]
"""Returns the work that is under way, as fields of a log line."""


class DrainTimedOut(HoldfastError):
    """The process stopped before its work was finished or handed back."""


@dataclass(frozen=True, slots=True, order=True)
class _End:
    """A time (on the monotonic clock) at which the process ends. `left` returns the unfinished work, and is
    None if no work is under way.
    """

    at: float
    reason: str = field(compare=False)
    code: int = field(compare=False, default=1)
    left: WorkLeft | None = field(compare=False, default=None)


class Ending:
    """Ends this process after a signal or a failure. A process creates this object before anything else, on its main
    thread.
    """

    def __init__(self) -> None:
        self._ends: SimpleQueue[_End] = SimpleQueue()  # this queue's `put` is safe inside a signal handler
        threading.Thread(target=self._watch, name="ending", daemon=True).start()
        self.exit_on_signals()

    def exit_on_signals(self) -> None:
        """From now on a signal ends the process at once, with the shell's exit code for that signal."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            self._ends.put(_End(time.monotonic(), signal.Signals(number).name, 128 + number))

        _handle(on_signal)

    def stop_signal(self, *, seconds: float, left: WorkLeft) -> "Stopping":
        """An event that the next signal sets. The process then has `seconds` to end.

        After that time, or at a second signal, the process ends at once, with exit code 1. The last log
        line of the process then has the fields that `left()` returns.
        """
        loop = asyncio.get_running_loop()
        reason = f"not done {seconds:g} s after it began to stop"
        stopping = Stopping(lambda: self._ends.put(_End(time.monotonic() + seconds, reason, left=left)))
        signals = 0

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            nonlocal signals
            signals += 1
            if signals > 1:
                self._ends.put(_End(time.monotonic(), "second signal while draining", left=left))
            else:
                loop.call_soon_threadsafe(stopping.set)

        _handle(on_signal)
        return stopping

    def leave(self) -> None:
        """Give the process `EXIT_SECONDS` to end, after the process has closed everything."""
        self.exit_on_signals()
        self._ends.put(_End(time.monotonic() + EXIT_SECONDS, f"not gone {EXIT_SECONDS:g} s after it had closed"))

    def _watch(self) -> None:
        code = 1
        try:
            end = self._ends.get()
            while (seconds := end.at - time.monotonic()) > 0:
                try:
                    end = min(end, self._ends.get(timeout=seconds))
                except Empty:
                    break
            code = end.code
            if end.left is None and code != 1:
                log.info("process_interrupted", signal=end.reason)
            else:
                log.critical("process_killed", reason=end.reason, **(end.left() if end.left else {}))
        finally:
            exit_now(code)


class Stopping(asyncio.Event):
    """An event that is set when the process has to stop: by a signal, or because a part of the process failed."""

    def __init__(self, begin: Callable[[], None]) -> None:
        """`begin()` starts the time within which the process has to end."""
        super().__init__()
        self.begin = begin

    def set(self) -> None:
        if not self.is_set():
            self.begin()
        super().set()


def exit_now(code: int) -> None:
    """End the process at once, whatever its other threads do. Log lines that still wait in memory are written first, if
    possible.
    """
    try:
        flush_logs()
    finally:
        os._exit(code)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    """Replace the handlers of both signals. Python's default handler is never restored, because that handler
    could raise KeyboardInterrupt anywhere.
    """
    for number in _SIGNALS:
        signal.signal(number, handler)
