"""Replaces structlog's loggers and its context variables.

structlog copies a logger's fields for each line, calls a dozen processors and looks through all context variables for
the bound ones. Here a line is one call of `write`, and the bound fields are one variable.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

type Write = Callable[[str, str, dict[str, Any]], None]
"""Called with the level, the logger's name, and the fields of the line."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound_fields", default=_NOTHING)


class Logger:
    """Writes lines: `log.info("order_placed", amount=5)`. Its level is read at each call, since levels change."""

    __slots__ = ("_is_debugging", "_levels", "_name", "_write")

    def __init__(self, name: str, *, write: Write, is_debugging: Callable[[], bool]) -> None:
        self._name = name
        self._write = write
        self._is_debugging = is_debugging
        self._levels = logging.getLogger(name)  # its level can be changed before it has written anything

    def debug(self, event: str, **fields: Any) -> None:
        if self._levels.isEnabledFor(logging.DEBUG) or self._is_debugging():
            self._say("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        if self._levels.isEnabledFor(logging.INFO):
            self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        if self._levels.isEnabledFor(logging.WARNING):
            self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        if self._levels.isEnabledFor(logging.ERROR):
            self._say("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An ERROR with the traceback of the exception at hand."""
        self.error(event, exc_info=True, **fields)

    def critical(self, event: str, **fields: Any) -> None:
        if self._levels.isEnabledFor(logging.CRITICAL):
            self._say("critical", event, fields)

    def _say(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        self._write(level, self._name, {"logger_name": self._name, **_bound.get(), **fields, "event": event})


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Put the fields on each line that is written inside the block."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def bind_to_task(**fields: Any) -> None:
    """Put the fields on each line that this task writes from now on, or a task that it starts."""
    _bound.set({**_bound.get(), **fields})
