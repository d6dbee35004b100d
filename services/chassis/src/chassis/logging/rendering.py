"""A line as bytes: JSON for machines, or what people read on a terminal. Nobody's input begins a line or steers it."""

import json
import re
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

# What JSON leaves as it is and a viewer may obey: DEL and C1 controls (0x9B begins an escape sequence), the line and
# paragraph separators, and what turns the direction of text around.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def to_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    """One JSON object and its newline."""
    # orjson refuses asyncpg's subclass of UUID; newlines and control characters come out escaped.
    try:
        line = orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Half a surrogate pair or an integer above 64 bits, from somebody's input: slower, but it is written.
        return json.dumps(event, default=str, skipkeys=True).encode() + b"\n"
    if line.isascii() and b"\x7f" not in line:
        return line
    return _UNSAFE.sub(_escape, line.decode()).encode()


class ConsoleRenderer:
    """Readable lines, coloured on a terminal. A traceback keeps its newlines, nothing else does."""

    def __init__(self, *, colors: bool) -> None:
        self._render = structlog.dev.ConsoleRenderer(colors=colors)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        for key, value in event.items():
            if isinstance(value, str) and not value.isprintable():
                event[key] = "\n".join(map(_printable, value.split("\n"))) if key == "exception" else _printable(value)
        return f"{self._render(logger, method, event)}\n".encode(errors="backslashreplace")


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _printable(text: str) -> Any:
    return text if text.isprintable() else text.encode("unicode_escape").decode()
