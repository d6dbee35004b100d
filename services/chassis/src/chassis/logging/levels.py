"""Levels: one for the process, and another for one logger, for a time.

The levels are those of the standard library's loggers, by whose names ours go: a level set on `chassis` holds for
`chassis.retries`, and for libraries it works the same.
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
"""An hour: who needs a level for longer changes the configuration, where everybody sees it."""

_MAX_CHANGES = 50
"""At once; each has a timer."""

_AUDIT = ("chassis.process.management", "chassis.logging")
"""They say who changed what: whoever changes a level cannot silence them."""


class Timer(Protocol):
    def cancel(self) -> object: ...
    def when(self) -> float: ...


class Timers(Protocol):
    """The part of an event loop that is needed here."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


@dataclass(frozen=True, slots=True)
class LevelChange:
    """A logger whose level differs for a time. `original` is what it goes back to; NOTSET is its parent's."""

    logger: str
    level: str
    original: str
    seconds_left: float


@dataclass(slots=True)
class _Change:
    original: int
    timer: Timer


class CannotChange(HoldfastError):
    """The level stays as it is; the message says why, to whoever asked."""


class Levels:
    """The levels of this process. Its changes revert by themselves; `on_reverted(logger, level)` hears of it."""

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
        """The level of every logger that has none of its own; a change for a time goes before it."""
        number = logging.getLevelNamesMapping()[level]
        if ROOT in self._changes:
            self._changes[ROOT].original = number
        else:
            logging.getLogger().setLevel(number)

    def change(self, name: str, level: Level, *, seconds: float, timers: Timers | None = None) -> LevelChange:
        """Set the logger's level for `seconds` (by default on the running loop's clock).

        A further change of it begins a new time and keeps what it goes back to. Raises `CannotChange`.
        """
        timers = timers or asyncio.get_running_loop()
        logger = _known(name)
        former = self._changes.get(name)
        if former is None and len(self._changes) >= _MAX_CHANGES:
            raise CannotChange("Too many loggers are changed already: wait until one reverts.")
        if former is not None:
            former.timer.cancel()
        original = former.original if former else logger.level
        self._changes[name] = _Change(original, timers.call_later(seconds, lambda: self.revert(name)))
        logger.setLevel(level)
        return LevelChange(name, level, logging.getLevelName(original), seconds)

    def revert(self, name: str) -> None:
        """Give the logger its original level back, now; nothing for one that was not changed."""
        change = self._changes.pop(name, None)
        if change is not None:
            change.timer.cancel()
            logging.getLogger(_stdlib_name(name)).setLevel(change.original)
            self._on_reverted(name, logging.getLevelName(change.original))

    def changes(self, timers: Timers | None = None) -> list[LevelChange]:
        """What is changed now, by name."""
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
        """Whether the level of this logger, or of one above it, was changed for a time."""
        if not self._changes or ROOT in self._changes:
            return bool(self._changes)
        parts = name.split(".")
        return any(".".join(parts[:length]) in self._changes for length in range(1, len(parts) + 1))


def _known(name: str) -> logging.Logger:
    """The logger of this name. A misspelt one would be made on the spot, and change nothing."""
    if name in _AUDIT:
        raise CannotChange("Its lines say who changed what: they are always written.")
    known = logging.root.manager.loggerDict
    if name != ROOT and name not in known:
        nearest = difflib.get_close_matches(name, [ROOT, *known], n=1, cutoff=0.6)
        raise CannotChange(f"There is no such logger{f'; did you mean {nearest[0]}?' if nearest else '.'}")
    return logging.getLogger(_stdlib_name(name))


def _stdlib_name(name: str) -> str | None:
    return None if name == ROOT else name
