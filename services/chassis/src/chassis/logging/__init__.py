"""Logging: JSON lines on stdout with the request's ids on each, one canonical line per request or job, no secrets.

Levels, as a contract: DEBUG is for a developer chasing one problem; INFO is one line per significant business event;
WARNING is recovered or degraded; ERROR means that an operation failed and someone lost something; CRITICAL means that
the process cannot go on. An expected 4xx is never ERROR. Event names are constant and in the past tense; values are
fields: `log.info("order_placed", order_id=order.id)`.

The way of a line: is it enabled (`levels`, `debugging`), does it repeat (`repeats`), then the pipeline below with
`redaction` and `rendering`, and the queue of the `writer`.
"""

import atexit
import logging
import random
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from datetime import UTC, datetime

import structlog
from prometheus_client import Counter

from chassis.config.settings import LogSettings
from chassis.fast import otel_traceparent
from chassis.fast.structlog_logger import Logger, bind, bind_to_task
from chassis.logging import debugging
from chassis.logging.canonical import (
    CANONICAL_EVENTS,
    add_to_canonical_line,
    canonical_line,
    put_on_canonical_line,
    put_on_every_canonical_line,
)
from chassis.logging.debugging import DebugRequests
from chassis.logging.levels import Levels
from chassis.logging.redaction import is_sensitive, redact, redact_fields, shown_back
from chassis.logging.rendering import ConsoleRenderer, Line, to_json
from chassis.logging.repeats import Repeats
from chassis.logging.writer import LineWriter, write_to

__all__ = [
    "CANONICAL_EVENTS",
    "Logger",
    "add_to_canonical_line",
    "bind",
    "bind_to_task",
    "canonical_line",
    "configure_logging",
    "debug_header",
    "debugging_for",
    "flush_logs",
    "get_logger",
    "is_sensitive",
    "levels",
    "put_on_canonical_line",
    "put_on_every_canonical_line",
    "redact",
    "redact_fields",
    "request_id_from",
    "request_id_var",
    "shown_back",
]

log_events = Counter("log_events", "Log lines by level, those included that were dropped later.", ["level"])

FLUSH_SECONDS = 2.0
"""What a process that ends gives whoever reads its log; with the drain it stays below a pod's grace period."""

# https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_SEVERITY = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}
_events_of = {name: log_events.labels(name) for name in _SEVERITY}
_NEVER_SUPPRESSED = CANONICAL_EVENTS | {"repeats_suppressed", "log_events_dropped"}
"""Whoever adds up what is missing needs each of these, too."""
_LEVELS = {name: logging.getLevelNamesMapping()[name.upper()] for name in _SEVERITY}

# The id that a caller can quote: it is in the answer, on every line and in calls to other services.
request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def get_logger(name: str) -> Logger:
    """What a module logs with; `name` is its `__name__`."""
    return Logger(name, write=_write, is_debugging=lambda: debugging.current_header() is not None)


def request_id_from(header: str) -> str:
    """The caller's id when it is a plain one, or a new one: it ends up in logs, so nothing else is taken over."""
    is_plain = _REQUEST_ID.fullmatch(header) and redact(header) == header  # a card number would be plain as well
    return header if is_plain else f"{random.getrandbits(128):032x}"


def configure_logging(settings: LogSettings, **identity: str) -> None:
    """Send every line of this process, the libraries' lines included, through one pipeline to stdout.

    `identity` (service, version, environment, instance) stands on each line.
    """
    _process.end()
    _process.begin(settings, identity)
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.root.level, force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # The canonical line says more than the access log does.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def flush_logs(seconds: float = FLUSH_SECONDS) -> bool:
    """Wait until every line so far is written, `seconds` at most; whether they are. For the end of a process."""
    return _process.writer is None or _process.writer.flush(seconds)


def levels() -> Levels:
    """The levels of this process, to look at and to change for a time."""
    return _process.levels


def debugging_for(header: str | None) -> AbstractContextManager[None]:
    """Write our DEBUG lines inside the block if the header is signed and valid; see `chassis.logging.debugging`."""
    return _process.debug_requests.scope(header)


def debug_header() -> str | None:
    """The header that turned DEBUG on here, to send along or store; None when none did."""
    return debugging.current_header()


class _Process:
    """What logging holds for the process. Until `configure_logging` it writes for a command's user: to stderr."""

    def __init__(self) -> None:
        self.writer: LineWriter | None = None
        self.levels = Levels(logging.root.level, on_reverted=_note_reverted)
        self.debug_requests = DebugRequests(None, time.time)
        self.repeats = Repeats(limit=1, window=1.0, clock=time.monotonic)
        self._identity: Mapping[str, str] = {}
        self._render: Callable[[Line], bytes] = ConsoleRenderer(colors=False)

    def begin(self, settings: LogSettings, identity: Mapping[str, str]) -> None:
        is_terminal = sys.stdout.isatty()
        is_console = settings.format == "console" or (settings.format == "auto" and is_terminal)
        key = settings.debug_key.get_secret_value() if settings.debug_key else None
        self._identity = identity
        self._render = ConsoleRenderer(colors=is_terminal) if is_console else to_json
        self.writer = LineWriter(write_to(sys.stdout), max_bytes=settings.queue_bytes, on_recovered=_note_dropped)
        self.levels = Levels(_LEVELS[settings.level.lower()], on_reverted=_note_reverted)
        self.debug_requests = DebugRequests(key, time.time)
        self.repeats = Repeats(limit=settings.repeats, window=settings.repeats_window, clock=time.monotonic)
        atexit.unregister(self.end)
        atexit.register(self.end)

    def end(self) -> None:
        """Say what was suppressed, and write what waits. What comes later is dropped."""
        if self.writer is not None:
            for (name, event), count in self.repeats.pending().items():
                log.warning("repeats_suppressed", source=name, repeated=event, suppressed=count)
            self.writer.close(FLUSH_SECONDS)

    def write(self, level: str, said: Line) -> None:
        """Write what was said, without its secrets, and what it does not say: its request and trace, who writes it,
        how severe it is, and when. All in one step, since each costs a line as much as looking at a field.
        """
        if "exc_info" in said:
            said = dict(structlog.processors.format_exc_info(None, level, said))
        line = redact_fields(said)
        # What follows is ours, or was looked at when it came in, and needs no redaction.
        if request_id := request_id_var.get():
            line["request_id"] = request_id
        line.update(self._identity)
        line["level"] = level
        line["severity_number"] = _SEVERITY[level]
        if traceparent := otel_traceparent.current.get():
            _, line["trace_id"], line["span_id"], _ = traceparent.split("-")
        line["timestamp"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        rendered = self._render(line)
        _events_of[level].inc()
        if self.writer is None:
            sys.stderr.write(rendered.decode())
        else:
            self.writer.put(rendered, level)


def _write(level: str, name: str, fields: Line) -> None:
    """Write the line, unless it is a warning that repeats."""
    if level == "warning" and fields["event"] not in _NEVER_SUPPRESSED:
        suppressed = _process.repeats.admit((name, fields["event"]))
        if suppressed is None:
            return
        if suppressed:
            fields["suppressed"] = suppressed
    _process.write(level, fields)


class _LibraryHandler(logging.Handler):
    """Passes a library's record on, so that it gets the same ids, redaction and format as ours."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.INFO and not _process.levels.is_changed(record.name):
            return  # DEBUG for the process means our own details, not every library's
        # A library may have levels of its own, such as uvicorn's TRACE: the next lower one of ours.
        level = max(
            (name for name in _SEVERITY if _LEVELS[name] <= record.levelno), key=_LEVELS.__getitem__, default="debug"
        )
        try:
            getattr(get_logger(record.name), level)(record.getMessage(), exc_info=record.exc_info)
        except Exception:  # noqa: BLE001  a line that cannot be written must not end what wrote it
            self.handleError(record)


log = get_logger(__name__)


def _note_dropped(count: int) -> None:
    log.warning("log_events_dropped", events=count)


def _note_reverted(logger: str, level: str) -> None:
    log.info("log_level_reverted", logger=logger, to=level)


_process = _Process()
