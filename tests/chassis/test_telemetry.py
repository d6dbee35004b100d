"""One order is one trace: the context comes in, goes out, and costs nothing where nothing is recorded."""

import asyncio
from collections.abc import Iterator

import pytest
from chassis import telemetry
from chassis.telemetry import SpanKind, StatusCode, current_traceparent, span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"
NOT_SAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Traces that begin here are not recorded, those sampled elsewhere are."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(span_limits=telemetry.LIMITS, sampler=ParentBased(TraceIdRatioBased(0)))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def test_a_trace_from_outside_goes_on_and_is_sent_along(recorded: InMemorySpanExporter) -> None:
    with span("request", kind=SpanKind.SERVER, traceparent=SAMPLED), span("query"):
        sent = current_traceparent()
    assert sent is not None
    assert sent.startswith(f"00-{TRACE}-")
    assert sent != SAMPLED
    query, request = recorded.get_finished_spans()
    assert (query.name, request.name) == ("query", "request")
    assert query.parent is not None
    assert query.parent.span_id == request.context.span_id
    assert request.parent is not None
    assert format(request.parent.span_id, "016x") == "b7ad6b7169203331"


@pytest.mark.parametrize("sent", [f"cc-{TRACE}-b7ad6b7169203331-01-what-comes-later", f" {SAMPLED} "])
def test_a_trace_goes_on_in_whatever_way_its_parent_is_written(recorded: InMemorySpanExporter, sent: str) -> None:
    with span("request", traceparent=sent):
        pass
    (only,) = recorded.get_finished_spans()
    assert only.parent is not None
    assert format(only.parent.span_id, "016x") == "b7ad6b7169203331"


def test_attributes_are_built_for_recorded_spans_only(recorded: InMemorySpanExporter) -> None:
    built = []

    def attributes() -> dict[str, str]:
        built.append("built")
        return {"order": "1"}

    with span("unrecorded", traceparent=NOT_SAMPLED, attributes=attributes):
        pass
    with span("new and unsampled", attributes=attributes):
        pass
    assert built == []
    with span("recorded", traceparent=SAMPLED, attributes=attributes):
        pass
    (only,) = recorded.get_finished_spans()
    assert only.attributes == {"order": "1"}


@pytest.mark.usefixtures("recorded")
def test_what_is_not_recorded_still_has_its_id_for_the_log() -> None:
    with span("request", traceparent=NOT_SAMPLED):
        sent = current_traceparent()
    assert sent is not None
    assert sent.startswith(f"00-{TRACE}-")
    assert sent.endswith("-00")


@pytest.mark.parametrize(
    "header",
    ["", "nonsense", "00-0-0-01", f"ff-{TRACE}-b7ad6b7169203331-01", f"00-{TRACE}-{'0' * 16}-01", "00-" + "0" * 52],
)
@pytest.mark.usefixtures("recorded")
def test_a_header_that_cannot_be_read_starts_a_trace_of_its_own(header: str) -> None:
    with span("request", traceparent=header):
        sent = current_traceparent()
    assert sent is not None
    assert TRACE not in sent


def test_an_error_is_on_the_span_that_it_left(recorded: InMemorySpanExporter) -> None:
    with pytest.raises(LookupError), span("request", traceparent=SAMPLED):
        raise LookupError("lost")
    (only,) = recorded.get_finished_spans()
    assert (only.status.status_code, only.status.description) == (StatusCode.ERROR, "LookupError: lost")
    assert only.attributes == {"error.type": "LookupError"}


def fail(current: telemetry.Span) -> None:
    current.set_attribute("later", "4111 1111 1111 1111")
    current.record_exception(LookupError("4111 1111 1111 1111"))
    raise LookupError("Bearer t0ken, whsec_c2VjcmV0, card 4111111111111111")


def test_no_secret_reaches_a_span_by_its_attributes_or_its_errors(recorded: InMemorySpanExporter) -> None:
    with (
        pytest.raises(LookupError),
        span(
            "request",
            traceparent=SAMPLED,
            attributes=lambda: {
                "api_key": "k3y",
                "url.full": "http://user:p4ss@provider/",
                "note": "4111 1111 1111 1111",
            },
        ) as current,
    ):
        fail(current)
    (only,) = recorded.get_finished_spans()
    written = only.to_json()
    assert "LookupError" in written
    assert not [secret for secret in ("k3y", "p4ss", "t0ken", "c2VjcmV0", "1111") if secret in written]


def test_a_cancelled_task_is_no_failure(recorded: InMemorySpanExporter) -> None:
    with pytest.raises(asyncio.CancelledError), span("request", traceparent=SAMPLED):
        raise asyncio.CancelledError
    (only,) = recorded.get_finished_spans()
    assert only.status.status_code is StatusCode.UNSET


def test_what_follows_a_span_is_not_in_it(recorded: InMemorySpanExporter) -> None:
    with span("first", traceparent=SAMPLED):
        pass
    assert current_traceparent() is None
    assert len(recorded.get_finished_spans()) == 1


def test_outside_any_trace_there_is_nothing_to_send() -> None:
    assert current_traceparent() is None
