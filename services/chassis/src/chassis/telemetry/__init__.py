"""Traces: W3C trace context is read and passed on, and a span's attributes are built only if the span is sampled.

`traceparent` is the header of https://www.w3.org/TR/trace-context/ ("00-<32 hex>-<16 hex>-<2 hex>"). `traceparent`
travels in HTTP headers, in the job table, in outbox rows and in stream entries, so that all steps of an order are one
trace. The names, kinds and attributes of spans follow https://opentelemetry.io/docs/specs/semconv/;
docs/reference/tracing.md lists the spans.
"""

from collections.abc import Callable, Generator, Mapping

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.trace import Span, SpanKind, StatusCode

from chassis.config.settings import ServiceSettings
from chassis.fast import otel_traceparent
from chassis.fast.contextmanager import contextmanager
from chassis.fast.otel_sampler import UNRECORDED, Sampler
from chassis.logging import redact, redact_fields

__all__ = [
    "Span",
    "SpanKind",
    "StatusCode",
    "configure_tracing",
    "current_traceparent",
    "record_failure",
    "span",
]

_MAX_REASON_LENGTH = 500
"""The largest number of characters of a failure's reason on a span. The log has the whole message and the traceback,
under the same trace id."""

LIMITS = SpanLimits(max_events=0)
"""Spans have no events: an exception's event would contain its message and traceback unredacted. The log has both
texts, redacted.
"""

_tracer = trace.get_tracer("holdfast")
_sampler = Sampler(1.0)  # `configure_tracing` replaces this sampler


def configure_tracing(settings: ServiceSettings, *, version: str, instance_id: str) -> Callable[[], None]:
    """Install the tracer. Returns a function that sends the last spans and stops the tracer within seconds, even if the
    collector hangs.

    Trace ids exist even without a collector, because logs and answers contain these ids. Without a collector no trace
    that begins in this process is recorded, and no span is exported.
    """
    global _sampler  # noqa: PLW0603  the tracer provider is global, too
    endpoint = settings.telemetry.otlp_endpoint
    _sampler = Sampler(settings.trace_sample_ratio if endpoint else 0.0)
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
    # The import is here, because the exporter takes 6 MB of memory, which a process without a collector does not need.
    from chassis.telemetry.export import export_to  # noqa: PLC0415

    return export_to(endpoint, provider)


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    traceparent: str | None = None,
    attributes: Callable[[], Mapping[str, str | int]] | None = None,
) -> Generator[Span]:
    """Run the block inside a span. `traceparent` continues a trace from another process.

    `attributes` is called only if the span is recorded, because building the attributes takes more CPU time than the
    rest of the span. An error that leaves the block marks the span as failed.
    """
    outer = traceparent or otel_traceparent.current.get()
    current, header = _sampler.start(_tracer, name, outer, kind, is_remote=traceparent is not None)
    outside = otel_traceparent.current.set(header)
    try:
        if current is UNRECORDED:
            yield current
        else:
            with _recording(current, attributes):
                yield current
    finally:
        otel_traceparent.current.reset(outside)


@contextmanager
def _recording(current: Span, attributes: Callable[[], Mapping[str, str | int]] | None) -> Generator[None]:
    """Make `current` the span of OpenTelemetry's context inside the block, and end the span after the block."""
    if attributes and current.is_recording():
        current.set_attributes(attributes())
    token = context.attach(trace.set_span_in_context(current))
    try:
        yield
    except Exception as error:
        record_failure(current, error)
        raise
    finally:
        context.detach(token)
        _redact(current)
        current.end()


def _redact(current: Span) -> None:
    """Redact secrets in the attributes, whichever code has set them."""
    if isinstance(current, ReadableSpan) and current.is_recording():
        attributes = dict(current.attributes or {})
        if (shown := redact_fields(attributes)) != attributes:
            current.set_attributes(shown)


def record_failure(current: Span, error: Exception) -> None:
    """Mark the span as failed. The reason is the text of `error` without secrets. The traceback is in the log, under
    the same trace id.
    """
    if current.is_recording():
        current.set_attribute("error.type", type(error).__name__)
        reason = str(redact(f"{type(error).__name__}: {error}"))[:_MAX_REASON_LENGTH]
        current.set_status(StatusCode.ERROR, reason)


def current_traceparent() -> str | None:
    """The `traceparent` of the current span, to send or to store. The result is None outside a trace."""
    return otel_traceparent.current.get()
