"""Log levels: one level for the process, and temporary levels for single loggers.

The standard library's loggers hold the levels. Each of our loggers has the level of the standard logger with the same
name. So our loggers also inherit levels from their parents: a level of `chassis` also applies to `chassis.retries`. An
operator can change the levels of libraries' loggers as well.
"""

import asyncio
import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chassis.config.settings import Level
from chassis.errors import HoldfastError

ROOT = "root"

MAX_SECONDS = 3600
"""The longest time, in seconds, for which a level can be changed. A longer change belongs in the configuration, which
everyone can read.
"""

_MAX_CHANGES = 50
"""The largest number of temporary changes at one time. Each change needs a timer, so this limit bounds the number of
timers.
"""

_AUDIT = ("chassis.process.management", "chassis.logging")
"""The loggers that record operators' changes. The level of these loggers cannot be changed, so that every change is
recorded.
"""


class Timer(Protocol):
    def cancel(self) -> object: ...
    def when(self) -> float: ...


class Timers(Protocol):
    """The methods of an event loop that `Levels` uses."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


@dataclass(frozen=True, slots=True)
class LevelChange:
    """A logger whose level is changed for a time. After that time the logger gets the level `original` again. NOTSET
    means that a logger inherits the level of its parent.
    """

    logger: str
    level: str
    original: str
    seconds_left: float


@dataclass(slots=True)
class _Change:
    original: int
    timer: Timer


class CannotChange(HoldfastError):
    """The level cannot be changed. The message, which the caller reads, says why."""


class Levels:
    """The levels of this process. A temporary change ends after its time, and then `on_reverted(logger, level)` is
    called with the original level.
    """

    def __init__(self, base: int, *, on_reverted: Callable[[str, str], None]) -> None:
        self._on_reverted = on_reverted
        self._changes: dict[str, _Change] = {}
        logging.getLogger().setLevel(base)
        for name in _AUDIT:
            logging.getLogger(name).setLevel(logging.INFO)

    @property
    def base(self) -> str:
        """The level of the process, as configured or set by `set_base`."""
        change = self._changes.get(ROOT)
        name: str = logging.getLevelName(change.original if change else logging.getLogger().level)
        return name

    def set_base(self, level: Level) -> None:
        """Set the level of the process. It applies to each logger for which no other level was set. A temporary change
        takes precedence.
        """
        number = logging.getLevelNamesMapping()[level]
        if ROOT in self._changes:
            self._changes[ROOT].original = number
        else:
            logging.getLogger().setLevel(number)

    def change(self, name: str, level: Level, *, seconds: float, timers: Timers | None = None) -> LevelChange:
        """Set the level of the logger `name` for `seconds`; `timers` is by default the running event loop.

        A second change of the same logger restarts the time. At the end the logger gets the level from before the first
        change. Raises `CannotChange` for an unknown logger, for a logger that records operators' changes, and if too
        many levels are changed already.
        """
        timers = timers or asyncio.get_running_loop()
        logger = _known(name)
        former = self._changes.get(name)
        if former is None and len(self._changes) >= _MAX_CHANGES:
            raise CannotChange("Too many levels are changed already. Wait until one of the changes ends.")
        if former is not None:
            former.timer.cancel()
        original = former.original if former else logger.level
        self._changes[name] = _Change(original, timers.call_later(seconds, lambda: self.revert(name)))
        logger.setLevel(level)
        return LevelChange(name, level, logging.getLevelName(original), seconds)

    def revert(self, name: str) -> None:
        """Give the logger its original level back now. Does nothing if the logger's level was not changed."""
        change = self._changes.pop(name, None)
        if change is not None:
            change.timer.cancel()
            logging.getLogger(_stdlib_name(name)).setLevel(change.original)
            self._on_reverted(name, logging.getLevelName(change.original))

    def changes(self, timers: Timers | None = None) -> list[LevelChange]:
        """The present changes, in the order of the loggers' names."""
        timers = timers or asyncio.get_running_loop()
        return [
            LevelChange(
                name,
                logging.getLevelName(logging.getLogger(_stdlib_name(name)).level),
                logging.getLevelName(change.original),
                round(max(0.0, change.timer.when() - timers.time()), 1),
            )
            for name, change in sorted(self._changes.items())
        ]

    def is_changed(self, name: str) -> bool:
        """Whether the level of this logger, or of a parent, is changed for a time."""
        if not self._changes or ROOT in self._changes:
            return bool(self._changes)
        parts = name.split(".")
        return any(".".join(parts[:length]) in self._changes for length in range(1, len(parts) + 1))


def _known(name: str) -> logging.Logger:
    """The existing logger of this name. Raises `CannotChange` for a logger that records operators' changes, and for an
    unknown name, for which the standard library would create a new logger.
    """
    if name in _AUDIT:
        raise CannotChange("The level of this logger is fixed, because its lines record operators' changes.")
    known = logging.root.manager.loggerDict
    if name != ROOT and name not in known:
        nearest = difflib.get_close_matches(name, [ROOT, *known], n=1, cutoff=0.6)
        raise CannotChange(f"There is no such logger{f'; did you mean {nearest[0]}?' if nearest else '.'}")
    return logging.getLogger(_stdlib_name(name))


def _stdlib_name(name: str) -> str | None:
    return None if name == ROOT else name
