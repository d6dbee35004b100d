"""Replaces OpenTelemetry's sampler: nine spans in ten are not recorded, and such a span is not built.

The SDK asks its sampler after it has looked the parent up, and builds a span for either answer.
"""

import random

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from chassis.fast import otel_traceparent

_ids = RandomIdGenerator()


class Sampler:
    """Records a share (0 to 1) of the traces that begin here, and each span whose parent is recorded."""

    def __init__(self, share: float) -> None:
        self._share = share

    def start(self, tracer: Tracer, name: str, parent: SpanContext, kind: SpanKind) -> tuple[Span, str]:
        """A span below `parent` (a new trace if it is invalid), and the span's `traceparent`."""
        is_inside = parent.is_valid
        if parent.trace_flags.sampled if is_inside else random.random() < self._share:  # noqa: S311  no secret
            span = tracer.start_span(name, context=set_span_in_context(NonRecordingSpan(parent)), kind=kind)
            context = span.get_span_context()
            return span, otel_traceparent.write(context.trace_id, context.span_id, context.trace_flags)
        trace_id = parent.trace_id if is_inside else _ids.generate_trace_id()
        return _UNRECORDED, otel_traceparent.write(trace_id, _ids.generate_span_id(), TraceFlags.DEFAULT)


class _Unrecorded(NonRecordingSpan):
    """One object for all spans that are not recorded. Its context is read on demand."""

    def get_span_context(self) -> SpanContext:
        return otel_traceparent.read(otel_traceparent.current.get() or "", is_remote=False)


_UNRECORDED = _Unrecorded(INVALID_SPAN_CONTEXT)
