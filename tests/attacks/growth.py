"""How the time of some work grows with its input: it may double when the input doubles, and a little more for noise."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_GROWTH = 2.5
"""Times the processor time for twice the input. Linear work takes 2, quadratic work 4."""
_EXPONENTIAL = 12.0
"""Times the processor time: what grows so is not run with yet more."""
_FIRST, _LAST = 8, 16_384
"""Characters. The first is small, since the time of some patterns doubles with each character."""
_FLOOR = 0.0001
"""Seconds. Below it the clock and the call itself are most of what is measured."""
_ROUNDS = 15

type Work = Callable[[str], object]
type Text = Callable[[int], str]
"""A text of about so many characters."""


def superlinear(work: Work, text: Text) -> str | None:
    """How the time grows where it grows faster than the text; None where it does not.

    The clock is the thread's processor time, and the least of several runs counts: other processes can only add to it.
    Growth that is not of the work, such as that of a cache that is full, is not there for the next doubling.
    """
    before, size = _seconds(work, text(_FIRST)), _FIRST
    while size < _LAST:
        size *= 2
        after = _seconds(work, text(size))
        if _is_too_much(before, after):
            found = _growth(work, text, size)
            if found and (found.startswith(_HANGS) or _growth(work, text, size * 2)):
                return found
        before = after
    return None


_HANGS = "without end: "


def _growth(work: Work, text: Text, size: int) -> str | None:
    """From half the size to the size, the least of several runs of each, taken in turns."""
    half, whole = text(size // 2), text(size)
    before = after = float("inf")
    with _undisturbed():
        for _ in range(_ROUNDS):
            before, after = min(before, _seconds(work, half)), min(after, _seconds(work, whole))
            if not _is_too_much(before, after):
                return None
    said = f"{before * 1e3:.2f} ms for {size // 2} characters, {after * 1e3:.2f} ms for {size}"
    return f"{_HANGS}{said}" if after > _EXPONENTIAL * before else said


def _is_too_much(before: float, after: float) -> bool:
    return after > _FLOOR and after > MOST_GROWTH * before


def _seconds(work: Work, text: str) -> float:
    started = time.thread_time()
    work(text)
    return time.thread_time() - started


@contextmanager
def _undisturbed() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
