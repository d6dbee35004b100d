"""What a process would write to stdout, read back line by line."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from chassis.config.settings import LogSettings
from chassis.logging import configure_logging, flush_logs, pipeline

type Line = dict[str, Any]


class CapturedLogs:
    def __init__(self) -> None:
        self._written = io.BytesIO()
        self.stdout = io.TextIOWrapper(self._written, encoding="utf-8", write_through=True)

    @property
    def text(self) -> str:
        flush_logs()
        return self._written.getvalue().decode()

    @property
    def lines(self) -> list[Line]:
        return [json.loads(line) for line in self.text.split("\n") if line]

    def of(self, event: str) -> list[Line]:
        return [line for line in self.lines if line["event"] == event]

    def one(self, event: str) -> Line:
        (line,) = self.of(event)
        return line


@contextmanager
def captured_logs(
    settings: LogSettings | None = None, *, is_terminal: bool = False, **identity: str
) -> Iterator[CapturedLogs]:
    """Logging as a service sets it up, into memory; the libraries' loggers get their handlers back afterwards."""
    logs = CapturedLogs()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs.stdout, "isatty", lambda: is_terminal)
        patch.setattr(sys, "stdout", logs.stdout)
        configure_logging(settings or LogSettings(), **(identity or {"service": "test"}))
        try:
            yield logs
        finally:
            pipeline._pipeline.end()
            pipeline._pipeline.__init__()  # type: ignore[misc]  as before: to stderr
            logging.captureWarnings(capture=False)
            root.handlers[:] = handlers
            root.setLevel(level)
