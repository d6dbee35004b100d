"""Traces: W3C trace context in and out, and spans whose sampling is decided before their attributes are built.

`traceparent` is the header of https://www.w3.org/TR/trace-context/ ("00-<32 hex>-<16 hex>-<2 hex>"). It travels in
HTTP headers, in the job table, in outbox rows and in stream entries, so that one order is one trace.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.settings import ServiceSettings

__all__ = ["SpanKind", "configure_tracing", "current_traceparent", "span"]

_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("holdfast")


def configure_tracing(settings: ServiceSettings, *, version: str, instance_id: str) -> Callable[[], None]:
    """Install the tracer and return what flushes and stops it.

    Trace ids exist even without a collector, since logs and answers carry them; only export needs an endpoint.
    """
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.telemetry.sample_ratio)),
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
    if settings.telemetry.otlp_endpoint:
        # Imported here: the exporter costs 6 MB that a process without a collector does not need.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        exporter = OTLPSpanExporter(endpoint=f"{settings.telemetry.otlp_endpoint.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider.shutdown


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    traceparent: str | None = None,
    attributes: Callable[[], Mapping[str, str | int]] | None = None,
) -> Iterator[Span]:
    """Run the block inside a span; `traceparent` continues a trace that came from outside.

    `attributes` is called only when the span is recorded: building them costs more than the span.
    """
    parent = _parent(traceparent) if traceparent else None
    with _tracer.start_as_current_span(name, context=parent, kind=kind) as current:
        if attributes and current.is_recording():
            current.set_attributes(attributes())
        yield current


def current_traceparent() -> str | None:
    """The `traceparent` of the current span, to send along or store; None outside any trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


def _parent(traceparent: str) -> Context:
    return _propagator.extract({"traceparent": traceparent})
