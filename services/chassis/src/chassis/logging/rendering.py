"""A line as bytes: JSON for machines, or text for people. Text from a caller can neither start a new line of the log
nor control a terminal.
"""

import json
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

import orjson

type Line = dict[str, Any]
"""The fields of a line, by name."""

# Characters that JSON does not escape and that may control a viewer: DEL and C1 controls (0x9B begins an escape
# sequence), the line and paragraph separators, and characters that change the direction of text.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def to_json(line: Line) -> bytes:
    """One JSON object and its newline."""
    # `default=str` converts asyncpg's subclass of UUID, which orjson does not convert itself. orjson escapes newlines
    # and control characters.
    for option in (orjson.OPT_APPEND_NEWLINE, orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS):
        try:
            text = orjson.dumps(line, default=str, option=option)
            break
        except TypeError:
            continue  # try again with OPT_NON_STR_KEYS, which doubles the time and which few mappings need
    else:
        # orjson refuses half a surrogate pair and an integer above 64 bits. The slower module `json` writes both.
        return json.dumps(line, default=str, skipkeys=True).encode() + b"\n"
    if text.isascii() and b"\x7f" not in text:
        return text
    return _UNSAFE.sub(_escape, text.decode()).encode()


class ConsoleRenderer:
    """Readable lines, coloured on a terminal. Newlines are escaped, except in a traceback."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    @cached_property
    def _render(self) -> Callable[[None, str, Line], str]:
        # The import is here, because structlog loads Rich and Pygments. A process that writes JSON does not use them,
        # and the import takes 6 % of the time of its start.
        from structlog import dev  # noqa: PLC0415

        return dev.ConsoleRenderer(colors=self._colors)

    def __call__(self, line: Line) -> bytes:
        for key, value in line.items():
            if isinstance(value, str) and not value.isprintable():
                line[key] = "\n".join(map(_printable, value.split("\n"))) if key == "exception" else _printable(value)
        return f"{self._render(None, line['level'], line)}\n".encode(errors="backslashreplace")


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _printable(text: str) -> Any:
    return text if text.isprintable() else text.encode("unicode_escape").decode()
