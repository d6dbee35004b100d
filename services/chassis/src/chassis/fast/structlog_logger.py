"""Replaces structlog's loggers and its context variables.

Bound fields are fields that `bind` adds to later log lines. For each log line, structlog copies the logger's fields,
calls a dozen processors and searches all context variables for bound fields. This logger calls one function, `write`,
for each line, and one context variable holds all bound fields.
"""

import logging
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from chassis.fast.contextmanager import contextmanager

type Write = Callable[[str, str, dict[str, Any]], None]
"""A function that writes a log line. Its arguments are the level, the logger's name and the fields of the line."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound_fields", default=_NOTHING)


class Logger:
    """Writes log lines: `log.info("order_placed", amount=5)`. Each call reads the logger's level, because an
    operator may change the level.
    """

    __slots__ = ("_is_debugging", "_levels", "_name", "_write")

    def __init__(self, name: str, *, write: Write, is_debugging: Callable[[], bool]) -> None:
        self._name = name
        self._write = write
        self._is_debugging = is_debugging
        self._levels = logging.getLogger(name)  # registers the name, so that an operator can set its level

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
        """Write a line at level ERROR with the traceback of the current exception."""
        self.error(event, exc_info=True, **fields)

    def critical(self, event: str, **fields: Any) -> None:
        if self._levels.isEnabledFor(logging.CRITICAL):
            self._say("critical", event, fields)

    def _say(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        self._write(level, self._name, {"logger_name": self._name, **_bound.get(), **fields, "event": event})


@contextmanager
def bind(**fields: Any) -> Generator[None]:
    """Add the fields to each line that is written inside the block."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def bind_to_task(**fields: Any) -> None:
    """Add the fields to each later line of this task and of the tasks that it starts later."""
    _bound.set({**_bound.get(), **fields})
