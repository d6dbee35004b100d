"""Logging: JSON lines on stdout, with the ids of the request and without secrets. One line sums up each request or job
(the canonical line).

Each level has one meaning in all services. DEBUG is for a developer who looks into one problem. INFO is one line per
significant business event. WARNING is a recovered or degraded operation. ERROR is a failed operation that lost
something. CRITICAL means that the process cannot go on. An expected 4xx is never an ERROR. Event names are constant and
in the past tense, and values are fields: `log.info("order_placed", order_id=order.id)`.

Read `pipeline` first: every line goes through it. `levels` and `debugging` decide whether a line is enabled, `repeats`
holds back repeated warnings, `request_ids` has the request's id, `redaction` removes secrets, `rendering` turns a line
into bytes, and `writer` queues the bytes and writes them to stdout. `canonical` collects the fields of canonical lines.
The logger and the bound fields are in `chassis.fast.structlog_logger`.
"""

from chassis.fast.structlog_logger import Logger, bind, bind_to_task
from chassis.logging.canonical import (
    CANONICAL_EVENTS,
    add_to_canonical_line,
    canonical_line,
    put_on_canonical_line,
    put_on_every_canonical_line,
)
from chassis.logging.pipeline import (
    configure_logging,
    debug_header,
    debugging_for,
    flush_logs,
    get_logger,
    levels,
)
from chassis.logging.redaction import is_sensitive, redact, redact_fields, shown_back
from chassis.logging.request_ids import request_id_from, request_id_var

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
