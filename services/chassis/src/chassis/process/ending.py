"""How a process ends: at a signal, within its time, and in any case.

    it starts     ── signal ─────────▶ it ends at once: it has not begun anything
    it works      ── signal ─────────▶ it drains, and ends within its limit; at a second signal, at once
                  ── a part fails ───▶ it ends within the same limit
    it has closed ───────────────────▶ it ends within `LEAVE_SECONDS`

A thread ends it, which is there from the start: a thread cannot be started when there is no memory left, and the event
loop may be blocked. `chassis.process.watchdog` is behind it, for an interpreter that never lets go.
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

LEAVE_SECONDS = 10.0
"""For a process that has closed everything: to join its threads, to export its last spans, to write its last lines."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

type Left = Callable[[], Mapping[str, object]]


class DrainTimedOut(HoldfastError):
    """The process had to stop before its work was finished or handed back."""


@dataclass(frozen=True, slots=True, order=True)
class _End:
    """`at` is on the monotonic clock. `left` says what was under way; without it there was nothing."""

    at: float
    reason: str = field(compare=False)
    code: int = field(compare=False, default=1)
    left: Left | None = field(compare=False, default=None)


class Ending:
    """Of one process: made before anything else, on the main thread."""

    def __init__(self) -> None:
        self._ends: SimpleQueue[_End] = SimpleQueue()  # `put` may interrupt itself, as a signal handler does
        threading.Thread(target=self._watch, name="ending", daemon=True).start()
        self.at_once_on_signals()

    def at_once_on_signals(self) -> None:
        """A signal ends the process, which has nothing under way, with the shell's exit code for it."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            self._ends.put(_End(time.monotonic(), signal.Signals(number).name, 128 + number))

        _handle(on_signal)

    def stop_signal(self, *, seconds: float, left: Left) -> "Stopping":
        """What the signals set from now on. The process then has `seconds` to end.

        When they are over, or at a second signal, it ends at once, with exit code 1 and `left()` in its log.
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
        """The process has closed what it had, and now has `LEAVE_SECONDS` to end."""
        self.at_once_on_signals()
        self._ends.put(_End(time.monotonic() + LEAVE_SECONDS, f"not gone {LEAVE_SECONDS:g} s after it had closed"))

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
    """An event that is set when the process is to stop: by a signal, or because it cannot go on."""

    def __init__(self, begin: Callable[[], None]) -> None:
        """`begin()`: from now on the time runs within which the process ends."""
        super().__init__()
        self.begin = begin

    def set(self) -> None:
        if not self.is_set():
            self.begin()
        super().set()


def exit_now(code: int) -> None:
    """End the process, without any of its other threads; the lines so far are written first, if they can be."""
    try:
        flush_logs()
    finally:
        os._exit(code)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    """In one step from one handler to the next: a signal never meets Python's own, which raises anywhere."""
    for number in _SIGNALS:
        signal.signal(number, handler)
