"""Traces: W3C trace context in and out, and spans whose sampling is decided before their attributes are built.

`traceparent` is the header of https://www.w3.org/TR/trace-context/ ("00-<32 hex>-<16 hex>-<2 hex>"). It travels in
HTTP headers, in the job table, in outbox rows and in stream entries, so that one order is one trace. Names, kinds and
attributes follow https://opentelemetry.io/docs/specs/semconv/; docs/reference/tracing.md lists the spans.
"""

import random
import re
from collections.abc import Callable, Mapping

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.config.settings import ServiceSettings
from chassis.logging import redact, redact_fields, traceparent_var

__all__ = [
    "Span",
    "SpanKind",
    "StatusCode",
    "configure_tracing",
    "current_traceparent",
    "is_unrecorded",
    "record_failure",
    "span",
]

_MAX_REASON_LENGTH = 500  # characters; the whole message and the traceback are in the log, under the same trace id

LIMITS = SpanLimits(max_events=0)
"""No events: an exception's would carry its message and traceback past redaction; both are in the log, without secrets.
"""

_propagator = TraceContextTextMapPropagator()
_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""As everybody writes it today; what else there may be is the propagator's to judge."""
_tracer = trace.get_tracer("holdfast")
_ids = RandomIdGenerator()
_recorded_share = 1.0  # of the traces that begin here; `configure_tracing` says which


def configure_tracing(settings: ServiceSettings, *, version: str, instance_id: str) -> Callable[[], None]:
    """Install the tracer and return what flushes and stops it, within a few seconds whatever the collector does.

    Trace ids exist even without a collector, since logs and answers carry them; only then nothing that begins here is
    recorded, and nothing is exported.
    """
    global _recorded_share  # noqa: PLW0603  as the provider is, below
    endpoint = settings.telemetry.otlp_endpoint
    _recorded_share = settings.trace_sample_ratio if endpoint else 0.0
    provider = TracerProvider(
        span_limits=LIMITS,
        resource=Resource.create(
            {
                "service.name": settings.service_name,
                "service.version": version,
                "service.namespace": "holdfast",
                "service.instance.id": instance_id,
                "deployment.environment.name": settings.environment,
            }
        ),
    )
    trace.set_tracer_provider(provider)
    if endpoint is None:
        return provider.shutdown
    # Imported here: the exporter costs 6 MB that a process without a collector does not need.
    from chassis.telemetry.export import export_to  # noqa: PLC0415

    return export_to(endpoint, provider)


class span:  # noqa: N801  used as `with span("send mail") as current:`
    """Run the block inside a span; `traceparent` continues a trace that came from outside.

    `attributes` is called only when the span is recorded: building them costs more than the span. An error that leaves
    the block marks the span as failed.
    """

    __slots__ = ("_attributes", "_kind", "_name", "_outside", "_span", "_token", "_traceparent")

    def __init__(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        traceparent: str | None = None,
        attributes: Callable[[], Mapping[str, str | int]] | None = None,
    ) -> None:
        self._name = name
        self._kind = kind
        self._traceparent = traceparent
        self._attributes = attributes

    def __enter__(self) -> Span:
        traceparent = self._traceparent or traceparent_var.get()
        outer = _read(traceparent, is_remote=self._traceparent is not None) if traceparent else INVALID_SPAN_CONTEXT
        is_inside = outer.is_valid
        if outer.trace_flags.sampled if is_inside else random.random() < _recorded_share:  # noqa: S311  no secret
            parent = trace.set_span_in_context(NonRecordingSpan(outer))
            self._span = _tracer.start_span(self._name, context=parent, kind=self._kind)
            if self._attributes and self._span.is_recording():
                self._span.set_attributes(self._attributes())
            place = _written(self._span.get_span_context())
        else:
            self._span = _UNRECORDED
            trace_id = outer.trace_id if is_inside else _ids.generate_trace_id()
            place = _place(trace_id, _ids.generate_span_id(), TraceFlags.DEFAULT)
        self._token = context.attach(trace.set_span_in_context(self._span))
        self._outside = traceparent_var.set(place)
        return self._span

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception):
            record_failure(self._span, error)
        traceparent_var.reset(self._outside)
        context.detach(self._token)
        if isinstance(self._span, ReadableSpan) and self._span.is_recording():
            attributes = dict(self._span.attributes or {})
            if (shown := redact_fields(attributes)) != attributes:  # here, so that it holds for whoever set one
                self._span.set_attributes(shown)
        self._span.end()


def _read(traceparent: str, *, is_remote: bool) -> SpanContext:
    """What it says; an invalid context when it says nothing that can be read."""
    if found := _TRACEPARENT.fullmatch(traceparent):  # a quarter of what the propagator takes
        return SpanContext(int(found[1], 16), int(found[2], 16), is_remote, TraceFlags(int(found[3], 16)))
    return trace.get_current_span(_propagator.extract({"traceparent": traceparent})).get_span_context()


def _written(place: SpanContext) -> str:
    """As the W3C's propagator writes it, at a quarter of the cost."""
    trace_id, span_id, _, flags, *_ = place
    return _place(trace_id, span_id, flags)


def _place(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


class _Unrecorded(NonRecordingSpan):
    """What nobody will see is not built, which costs three times as much. Whoever asks is told where he is now."""

    def get_span_context(self) -> SpanContext:
        return _read(traceparent_var.get() or "", is_remote=False)


_UNRECORDED = _Unrecorded(INVALID_SPAN_CONTEXT)


def record_failure(current: Span, error: Exception) -> None:
    """Mark the span as failed, its reason without secrets. The traceback is in the log, under the same trace id."""
    if current.is_recording():
        current.set_attribute("error.type", type(error).__name__)
        reason = str(redact(f"{type(error).__name__}: {error}"))[:_MAX_REASON_LENGTH]
        current.set_status(StatusCode.ERROR, reason)


def current_traceparent() -> str | None:
    """The `traceparent` of the current span, to send along or store; None outside any trace."""
    return traceparent_var.get()


def is_unrecorded() -> bool:
    """Whether this is part of a trace that is not recorded: a span of it would be for nobody."""
    current = traceparent_var.get()
    return current is not None and not int(current[-1], 16) & TraceFlags.SAMPLED
