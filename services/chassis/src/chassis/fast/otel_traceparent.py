"""Replaces OpenTelemetry's propagator and OpenTelemetry's context. This module formats the `traceparent` header of a
span only once.

Each log line, job, event and outbound call needs the ids of the current trace and span. For each of these uses,
OpenTelemetry would search its context and format the header again. With this module, reading one context variable is
enough.
"""

import re
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

current: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The `traceparent` header of the current span, or None outside a trace."""

_propagator = TraceContextTextMapPropagator()
_VERSION_00 = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16  # ids of zeros are invalid


def read(traceparent: str, *, is_remote: bool) -> SpanContext:
    """The parsed header, or an invalid `SpanContext` if the header is malformed.

    This function parses version 00 of the header. OpenTelemetry's propagator parses later versions.
    """
    if found := _VERSION_00.fullmatch(traceparent):
        return SpanContext(int(found[1], 16), int(found[2], 16), is_remote, TraceFlags(int(found[3], 16)))
    return trace.get_current_span(_propagator.extract({"traceparent": traceparent})).get_span_context()


def trace_of(traceparent: str) -> tuple[str, bool]:
    """The trace id in hexadecimal digits ("" for a malformed header), and whether the trace is recorded."""
    found = _VERSION_00.fullmatch(traceparent)
    if found and found[1] != _NO_TRACE and found[2] != _NO_SPAN:
        return found[1], bool(int(found[3], 16) & TraceFlags.SAMPLED)
    parent = read(traceparent, is_remote=False)
    return (f"{parent.trace_id:032x}", parent.trace_flags.sampled) if parent.is_valid else ("", False)


def write(trace_id: int, span_id: int, flags: int) -> str:
    """The `traceparent` header with the given ids, in the format of OpenTelemetry's propagator."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
