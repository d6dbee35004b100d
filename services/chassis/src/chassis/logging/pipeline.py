"""The pipeline that every line of a process takes, from a logger to the queue of the writer.

A logger only checks whether the level of a line is enabled. The pipeline holds back repeated warnings, redacts a line,
adds ids and the fields that identify the process, and renders the line.
"""

import atexit
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from prometheus_client import Counter

from chassis.config.settings import LogSettings
from chassis.fast import otel_traceparent
from chassis.fast.structlog_logger import Logger
from chassis.logging import debugging
from chassis.logging.canonical import CANONICAL_EVENTS
from chassis.logging.debugging import DebugRequests
from chassis.logging.levels import Levels
from chassis.logging.redaction import redact_fields
from chassis.logging.rendering import ConsoleRenderer, Line, to_json
from chassis.logging.repeats import Repeats
from chassis.logging.request_ids import request_id_var
from chassis.logging.writer import LineWriter, write_to

log_events = Counter("log_events", "Log lines by level, including lines that were dropped later.", ["level"])

FLUSH_SECONDS = 2.0
"""The seconds that an ending process waits, at most, for its last log lines to be written. These seconds and the drain
time-out (the time in which requests and jobs may finish) together are shorter than a pod's grace period.
"""

# https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_SEVERITY = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}
_events_of = {name: log_events.labels(name) for name in _SEVERITY}
_NEVER_SUPPRESSED = CANONICAL_EVENTS | {"repeats_suppressed", "log_events_dropped"}
"""Events whose lines are never suppressed, because readers of the log count these lines."""
_LEVELS = {name: logging.getLevelNamesMapping()[name.upper()] for name in _SEVERITY}


def get_logger(name: str) -> Logger:
    """The logger of a module. `name` is the module's `__name__`."""
    return Logger(name, write=_write, is_debugging=lambda: debugging.current_header() is not None)


def configure_logging(settings: LogSettings, **identity: str) -> None:
    """Send every line of this process, including those of libraries, through one pipeline to stdout.

    The fields of `identity` (service, version, environment, instance) are on each line.
    """
    _pipeline.end()
    _pipeline.begin(settings, identity)
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.root.level, force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # uvicorn's access log is disabled, because the canonical line, which sums up a request, has more fields.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def flush_logs(seconds: float = FLUSH_SECONDS) -> bool:
    """Wait until all lines logged so far are written, for `seconds` at most. Returns whether all of them are written. A
    process calls this function at its end.
    """
    return _pipeline.writer is None or _pipeline.writer.flush(seconds)


def levels() -> Levels:
    """The levels of this process, to read them and to change them for a time."""
    return _pipeline.levels


def debugging_for(header: str | None) -> AbstractContextManager[None]:
    """Write DEBUG lines inside the block if the header is signed and valid. See `chassis.logging.debugging`."""
    return _pipeline.debug_requests.scope(header)


def debug_header() -> str | None:
    """The header that turned DEBUG on for the current work, to send with calls or store with jobs. The result is None
    if DEBUG was not turned on.
    """
    return debugging.current_header()


def _write(level: str, name: str, fields: Line) -> None:
    """Write the line, unless it is a warning that repeats too often."""
    if level == "warning" and fields["event"] not in _NEVER_SUPPRESSED:
        suppressed = _pipeline.repeats.admit((name, fields["event"]))
        if suppressed is None:
            return
        if suppressed:
            fields["suppressed"] = suppressed
    _pipeline.write(level, fields)


class _Pipeline:
    """The state of this process's logging. Before `configure_logging`, lines go to stderr, where the user of a command
    reads them.
    """

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
        """Log the number of suppressed warnings, and write the waiting lines. Lines that come later are dropped."""
        if self.writer is not None:
            for (name, event), count in self.repeats.pending().items():
                log.warning("repeats_suppressed", source=name, repeated=event, suppressed=count)
            self.writer.close(FLUSH_SECONDS)

    def write(self, level: str, fields: Line) -> None:
        """Remove secrets from the fields, and write the line. The line also gets the ids of the request and the trace,
        the fields that identify the process, the severity and the time.
        """
        if raised := _exception_of(fields.pop("exc_info", None)):
            fields["exception"] = "".join(traceback.format_exception(raised)).rstrip("\n")
        line = redact_fields(fields)
        # The fields below need no redaction: this process sets them, or checked them when the request arrived.
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


def _exception_of(exc_info: object) -> BaseException | None:
    """The exception of a line. `exc_info` may be an exception, the tuple of `sys.exc_info()`, or any true value for the
    exception that is being handled.
    """
    match exc_info:
        case BaseException() | None:
            return exc_info
        case (_, BaseException() as raised, _):
            return raised
        case _:
            return sys.exception() if exc_info else None


class _LibraryHandler(logging.Handler):
    """Passes a library's record through the pipeline, so that the record gets the same ids, redaction and format as
    this project's lines.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.INFO and not _pipeline.levels.is_changed(record.name):
            return  # the process's level DEBUG applies to this project's loggers, not to libraries
        # A custom level of a library, such as uvicorn's TRACE, becomes the next lower standard level.
        level = max(
            (name for name in _SEVERITY if _LEVELS[name] <= record.levelno), key=_LEVELS.__getitem__, default="debug"
        )
        try:
            getattr(get_logger(record.name), level)(record.getMessage(), exc_info=record.exc_info)
        except Exception:  # noqa: BLE001  a failure to write a line must not become a failure of the code that logs
            self.handleError(record)


log = get_logger("chassis.logging")  # `levels._AUDIT` has this name, so the level of this logger cannot be changed


def _note_dropped(count: int) -> None:
    log.warning("log_events_dropped", events=count)


def _note_reverted(logger: str, level: str) -> None:
    log.info("log_level_reverted", logger=logger, to=level)


_pipeline = _Pipeline()
