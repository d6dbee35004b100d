"""Sends spans to a collector in the background. A collector that is down delays no request and is logged once a minute.

Ended spans wait in a queue of up to 2,048 (the SDK's default), which drops the oldest spans when the queue is full. The
waiting spans are sent every 5 s, or as soon as 512 spans wait. Spans that cannot be sent are dropped and counted,
because no function depends on traces.
"""

import logging
import time
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import Counter

from chassis.logging import get_logger

log = get_logger(__name__)

spans_exported = Counter("trace_spans_exported", "Spans by result: sent to the collector, or lost.", ["result"])

EXPORT_TIMEOUT = 2.0
"""The time limit of one batch with its retries, in seconds."""
STOP_TIMEOUT = 2.0
"""When the export stops, further batches may begin for this many seconds. With the time of the last batch, a process
waits for up to 4 s at its end."""
SECONDS_BETWEEN_LINES = 60.0


def export_to(endpoint: str, provider: TracerProvider) -> Callable[[], None]:
    """Send the provider's spans to the OTLP/HTTP collector at `endpoint`. Returns a function that stops the export."""
    # The exporter would log each retry and each batch; `BoundedExporter` logs one line a minute instead.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    url = f"{endpoint.rstrip('/')}/v1/traces"
    exporter = BoundedExporter(OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT), url)
    provider.add_span_processor(BatchSpanProcessor(exporter))

    def stop() -> None:
        exporter.stop_after(STOP_TIMEOUT)
        provider.shutdown()

    return stop


class BoundedExporter(SpanExporter):
    """Passes batches on to `inner`, and logs lost spans once a minute.

    After the time that `stop_after` sets, the exporter drops batches instead of passing them on.
    """

    def __init__(self, inner: SpanExporter, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._url = url
        self._clock = clock
        self._stops_at = float("inf")
        self._next_line_at = float("-inf")
        self._lost = 0

    def stop_after(self, seconds: float) -> None:
        """Begin no batch later than this many seconds from now."""
        self._stops_at = self._clock() + seconds

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        is_sent = self._clock() < self._stops_at and self._inner.export(spans) is SpanExportResult.SUCCESS
        spans_exported.labels("sent" if is_sent else "lost").inc(len(spans))
        if is_sent:
            return SpanExportResult.SUCCESS
        self._note(len(spans))
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._inner.shutdown()

    def _note(self, lost: int) -> None:
        self._lost += lost
        if self._clock() >= self._next_line_at:
            self._next_line_at = self._clock() + SECONDS_BETWEEN_LINES
            log.warning("spans_lost", spans=self._lost, endpoint=self._url)
            self._lost = 0
