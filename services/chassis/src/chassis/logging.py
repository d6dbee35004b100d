"""Logging: JSON lines on stdout with the request's ids on each, one canonical line per request or job, no secrets.

Levels, as a contract: DEBUG is for a developer chasing one problem; INFO is one line per significant business event;
WARNING is recovered or degraded; ERROR means that an operation failed and someone lost something; CRITICAL means that
the process cannot go on. An expected 4xx is never ERROR. Event names are constant and in the past tense; values are
fields: `log.info("order_placed", order_id=order.id)`.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

import orjson
import structlog
from opentelemetry import trace
from prometheus_client import Counter
from structlog.contextvars import bound_contextvars as bind
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from chassis.settings import LogSettings

__all__ = [
    "add_to_canonical_line",
    "bind",
    "canonical_line",
    "configure_logging",
    "get_logger",
    "is_sensitive",
    "put_on_canonical_line",
    "redact",
    "request_id_var",
]

log_events = Counter("log_events", "Log lines written, by level.", ["level"])

REDACTED = "[redacted]"

# Names whose values are never written; see `is_sensitive` for how a name is spelt for it.
_SENSITIVE_NAME = re.compile(
    r"(^|_)(password|passwd|passphrase|secret|token|credential|authorization|cookie|signature"
    r"|(api|secret|private|access|signing)_?key|card_?number|pan|cvc|cvv|iban)s?$"
)
_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET_PATTERNS = (
    re.compile(r"\bwhsec_[A-Za-z0-9+/=]+"),
    re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]+"),
    re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),  # user:password@ of a URL
)
# What each of those, and a card number, has in it: most texts are done after this one look.
_SUSPICIOUS = re.compile(r"whsec_|[Bb][Ee][Aa][Rr][Ee][Rr]|://|\d(?:[ -]?\d){12}")
_CARD_CANDIDATE = re.compile(r"(?<![\w-])(?:\d[ -]?){12,18}\d(?![\w-])")

# https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_SEVERITY = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}

# The id that a caller can quote: it is in the answer, on every line and in calls to other services.
request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)

_canonical: ContextVar[dict[str, Any] | None] = ContextVar("canonical_line", default=None)


def redact(value: Any) -> Any:
    """The value without secrets: sensitive keys of mappings, and patterns (keys, tokens, card numbers) in text."""
    if isinstance(value, str):
        return _redact_text(value)
    if value is None or isinstance(value, (bool, float, date, UUID)):
        return value
    if isinstance(value, Mapping):
        return {key: REDACTED if is_sensitive(str(key)) else redact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item) for item in value]
    # An exception, an object: what its text holds is what would be written. A number may be a card's.
    text = str(value)
    redacted = _redact_text(text)
    return value if isinstance(value, int) and redacted == text else redacted


@lru_cache(maxsize=1024)  # names are few, and looking at one costs more than the line it is on
def is_sensitive(name: str) -> bool:
    """Whether a field of this name holds what must not be shown: a password, key, token, card number.

    `name` may be a dotted path; case does not matter, `-` and a camel's hump read as `_`.
    """
    words = _CAMEL_HUMP.sub("_", name).replace("-", "_").lower()
    return any(_SENSITIVE_NAME.search(part) for part in words.split("."))


def _redact_text(text: str) -> str:
    if not _SUSPICIOUS.search(text):
        return text
    for pattern in _SECRET_PATTERNS:
        text = pattern.sub(REDACTED, text)
    return _CARD_CANDIDATE.sub(lambda match: REDACTED if _passes_luhn(match[0]) else match[0], text)


def _passes_luhn(candidate: str) -> bool:
    """Whether the digits have a card number's check sum (ISO/IEC 7812-1, annex B); order numbers mostly don't."""
    digits = [int(character) for character in reversed(candidate) if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def get_logger(name: str) -> FilteringBoundLogger:
    """What a module logs with; `name` is its `__name__`."""
    logger: FilteringBoundLogger = structlog.get_logger(logger_name=name)
    return logger


@contextmanager
def canonical_line() -> Iterator[dict[str, Any]]:
    """Collect the fields of one request's or job's canonical line; whoever opened it writes it at the end."""
    fields: dict[str, Any] = {}
    token = _canonical.set(fields)
    try:
        yield fields
    finally:
        _canonical.reset(token)


def add_to_canonical_line(**amounts: float) -> None:
    """Add amounts (counts, milliseconds) to the canonical line of the current request or job, if there is one."""
    fields = _canonical.get()
    if fields is not None:
        for name, amount in amounts.items():
            fields[name] = round(fields.get(name, 0) + amount, 3)


def put_on_canonical_line(**values: str | float) -> None:
    """Set fields of the canonical line of the current request or job, if there is one."""
    fields = _canonical.get()
    if fields is not None:
        fields.update(values)


def configure_logging(settings: LogSettings, **identity: str) -> None:
    """Send every line of this process, the libraries' lines included, through one pipeline to stdout.

    `identity` (service, version, environment, instance) stands on each line.
    """
    level = logging.getLevelNamesMapping()[settings.level]
    is_console = settings.format == "console" or (settings.format == "auto" and sys.stdout.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _Identity(identity),
            _add_severity_and_ids,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact_event,
            *_renderers(is_console=is_console),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_logger_factory(is_console=is_console),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_LibraryHandler()], level=max(level, logging.INFO), force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # The canonical line says more than the access log does.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


class _LibraryHandler(logging.Handler):
    """Passes a library's record on, so that it gets the same ids, redaction and format as ours."""

    def emit(self, record: logging.LogRecord) -> None:
        # A library may have levels of its own, such as uvicorn's TRACE: the next lower one of ours.
        level = max((known for known in _LEVELS if known <= record.levelno), default=logging.DEBUG)
        try:
            structlog.get_logger(logger_name=record.name).log(level, record.getMessage(), exc_info=record.exc_info)
        except Exception:  # noqa: BLE001  a line that cannot be written must not end what wrote it
            self.handleError(record)


class _Identity:
    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = dict(fields)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.update(self._fields)
        return event


def _add_severity_and_ids(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    level = "warning" if method == "warn" else "error" if method == "exception" else method
    log_events.labels(level).inc()
    event["level"] = level
    event["severity_number"] = _SEVERITY[level]
    if request_id := request_id_var.get():
        event["request_id"] = request_id
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
        event["span_id"] = format(context.span_id, "016x")
    return event


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    redacted: EventDict = redact(event)
    return redacted


class _Renderer(Protocol):
    def __call__(self, logger: WrappedLogger, name: str, event_dict: EventDict, /) -> str | bytes | EventDict: ...


def _renderers(*, is_console: bool) -> list[_Renderer]:
    if is_console:
        return [_escape_control_characters, structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())]
    return [structlog.processors.JSONRenderer(serializer=_to_json)]


def _escape_control_characters(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Nobody's input may start a line of its own or steer the terminal. JSON escapes them anyway."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode()
    return event


def _to_json(event: EventDict, **_options: Any) -> bytes:
    # orjson refuses asyncpg's subclass of UUID; newlines and control characters come out escaped.
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # Half a surrogate pair or an integer above 64 bits, from somebody's input: slower, but it is written.
        return json.dumps(event, default=str, skipkeys=True).encode()


def _logger_factory(*, is_console: bool) -> Any:
    if is_console:
        return structlog.WriteLoggerFactory(sys.stdout)
    return structlog.BytesLoggerFactory(sys.stdout.buffer)
