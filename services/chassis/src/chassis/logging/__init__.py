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
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import structlog
from prometheus_client import Counter
from structlog.typing import EventDict, WrappedLogger

from chassis.logging import debugging
from chassis.logging.binding import bind, bind_to_task, bound_fields
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
from chassis.logging.rendering import ConsoleRenderer, to_json
from chassis.logging.repeats import Repeats
from chassis.logging.writer import LineWriter, write_to
from chassis.settings import LogSettings

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
    "request_id_from",
    "request_id_var",
    "shown_back",
    "traceparent_var",
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
traceparent_var: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""Where in its trace this runs, as `chassis.telemetry.span` says: each line, job, event and call asks, so it is written
once. In OpenTelemetry's context it would be looked for, and written, each time.
"""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def get_logger(name: str) -> "Logger":
    """What a module logs with; `name` is its `__name__`."""
    logging.getLogger(name)  # so that its level can be changed before it has written anything
    logger: Logger = structlog.get_logger(name, logger_name=name)
    return logger


def request_id_from(header: str) -> str:
    """The caller's id when it is a plain one, or a new one: it ends up in logs, so nothing else is taken over."""
    is_plain = _REQUEST_ID.fullmatch(header) and redact(header) == header  # a card number would be plain as well
    return header if is_plain else f"{random.getrandbits(128):032x}"


def configure_logging(settings: LogSettings, **identity: str) -> None:
    """Send every line of this process, the libraries' lines included, through one pipeline to stdout.

    `identity` (service, version, environment, instance) stands on each line.
    """
    is_terminal = sys.stdout.isatty()
    is_console = settings.format == "console" or (settings.format == "auto" and is_terminal)
    _process.end()
    _process.begin(settings)
    structlog.configure(
        processors=[
            structlog.processors.format_exc_info,
            _redact_event,
            # What follows is ours, or was looked at when it came in, and needs no redaction.
            _Surroundings(identity),
            ConsoleRenderer(colors=is_terminal) if is_console else to_json,
        ],
        wrapper_class=Logger,
        logger_factory=_Outlet,
        cache_logger_on_first_use=True,
    )
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
    """What logging holds for the process, from `configure_logging` on."""

    def __init__(self) -> None:
        self.writer: LineWriter | None = None
        self.levels = Levels(logging.root.level, on_reverted=_note_reverted)
        self.debug_requests = DebugRequests(None, time.time)
        self.repeats = Repeats(limit=1, window=1.0, clock=time.monotonic)

    def begin(self, settings: LogSettings) -> None:
        key = settings.debug_key.get_secret_value() if settings.debug_key else None
        self.writer = LineWriter(write_to(sys.stdout), max_bytes=settings.queue_bytes, on_recovered=_note_dropped)
        self.levels = Levels(_LEVELS[settings.level.lower()], on_reverted=_note_reverted)
        self.debug_requests = DebugRequests(key, time.time)
        self.repeats = Repeats(limit=settings.repeats, window=settings.repeats_window, clock=time.monotonic)
        atexit.unregister(self.end)
        atexit.register(self.end)

    def end(self) -> None:
        """Say what was suppressed, and write what waits."""
        if self.writer is not None:
            for (name, event), count in self.repeats.pending().items():
                log.warning("repeats_suppressed", source=name, repeated=event, suppressed=count)
            self.writer.close(FLUSH_SECONDS)
            self.writer = None


class _Outlet:
    """Where a logger's lines go, and whether they do."""

    __slots__ = ("_levels", "name")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._levels = logging.getLogger(name)

    def is_enabled(self, level: int) -> bool:
        return self._levels.isEnabledFor(level) or (level == logging.DEBUG and debug_header() is not None)

    def write(self, level: str, line: bytes) -> None:
        if _process.writer is not None:
            _process.writer.put(line, level)


class Logger(structlog.BoundLoggerBase):
    """structlog's logger with the methods that are used here. Decides at each call, since levels change."""

    _logger: _Outlet

    def debug(self, event: str, **fields: Any) -> None:
        if self._logger.is_enabled(logging.DEBUG):
            self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        if self._logger.is_enabled(logging.INFO):
            self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        if not self._logger.is_enabled(logging.WARNING):
            return
        if event not in _NEVER_SUPPRESSED:
            suppressed = _process.repeats.admit((self._logger.name, event))
            if suppressed is None:
                return
            if suppressed:
                fields["suppressed"] = suppressed
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        if self._logger.is_enabled(logging.ERROR):
            self._write("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An ERROR with the traceback of the exception at hand."""
        self.error(event, exc_info=True, **fields)

    def critical(self, event: str, **fields: Any) -> None:
        if self._logger.is_enabled(logging.CRITICAL):
            self._write("critical", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        line: Any = {**self._context, **bound_fields(), **fields, "event": event}
        for process in self._processors:
            line = process(self._logger, level, line)
        _events_of[level].inc()
        self._logger.write(level, line)


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


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return redact_fields(event)


class _Surroundings:
    """Adds what a line does not say itself: its request and trace, who writes it, how severe it is, and when.

    One step, since each costs a line as much as looking at a field.
    """

    def __init__(self, identity: Mapping[str, str]) -> None:
        self._identity = dict(identity)

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if request_id := request_id_var.get():
            event["request_id"] = request_id
        event.update(self._identity)
        event["level"] = method
        event["severity_number"] = _SEVERITY[method]
        if traceparent := traceparent_var.get():
            _, event["trace_id"], event["span_id"], _ = traceparent.split("-")
        event["timestamp"] = _now()
        return event


def _now() -> str:
    """As in RFC 3339, in UTC and with microseconds. `datetime.isoformat` takes four times as long."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_date_and_time(seconds)}.{nanoseconds // 1000:06d}Z"


@lru_cache(maxsize=2)
def _date_and_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


log = get_logger(__name__)


def _note_dropped(count: int) -> None:
    log.warning("log_events_dropped", events=count)


def _note_reverted(logger: str, level: str) -> None:
    log.info("log_level_reverted", logger=logger, to=level)


_process = _Process()
