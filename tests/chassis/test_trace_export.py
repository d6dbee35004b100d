"""A collector is a help, never a condition: without one nothing happens, and one that is down costs one line."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from captured_logs import CapturedLogs, captured_logs
from chassis.config.settings import DatabaseSettings, ServiceSettings, TelemetrySettings
from chassis.telemetry.export import SECONDS_BETWEEN_LINES, BoundedExporter, spans_exported
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from pydantic import SecretStr, ValidationError

QUEUE = 2048  # the spans that wait to be sent, at most: OpenTelemetry's default


class Settings(ServiceSettings):
    service_name = "shop"


def settings(environment: str, **telemetry: object) -> Settings:
    return Settings.model_validate(
        {
            "environment": environment,
            "database": DatabaseSettings(name="none", user="none", password=SecretStr("none")),
            "telemetry": TelemetrySettings.model_validate(telemetry),
        }
    )


def run_traced(*, spans: int, endpoint: str | None, **environment: str) -> list[dict[str, Any]]:
    """The lines that such a process wrote."""
    process = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("traced_process.py"),
            json.dumps({"spans": spans, "endpoint": endpoint}),
        ],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert process.stderr == ""
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server


def url_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_without_a_collector_nothing_is_exported_loaded_or_said(listener: socket.socket) -> None:
    """Not even where OpenTelemetry's own variable names one: settings alone decide."""
    (line,) = run_traced(spans=QUEUE + 1, endpoint=None, OTEL_EXPORTER_OTLP_ENDPOINT=url_of(listener))
    assert (line["event"], line["exporter_loaded"]) == ("process_stopped", False)
    assert int(line["traceparent"][-2:], 16) & 1 == 0  # nothing is recorded, and callees are told so
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("is_hanging", [False, True], ids=["refuses", "hangs"])
def test_a_collector_that_is_down_costs_one_line_and_keeps_no_process_from_ending(
    listener: socket.socket, *, is_hanging: bool
) -> None:
    endpoint = url_of(listener)
    if not is_hanging:
        listener.close()
    *lines, stopped = run_traced(spans=QUEUE, endpoint=endpoint)
    assert stopped["event"] == "process_stopped"
    (lost,) = lines
    assert (lost["event"], lost["level"], lost["endpoint"]) == ("spans_lost", "warning", f"{endpoint}/v1/traces")
    assert "exception" not in lost


class FakeExporter(SpanExporter):
    def __init__(self) -> None:
        self.result = SpanExportResult.FAILURE
        self.batches: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batches.append(len(spans))
        return self.result


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def logs() -> Iterator[CapturedLogs]:
    with captured_logs() as logs:
        yield logs


def test_losses_are_told_once_a_minute_and_all_counted(logs: CapturedLogs) -> None:
    inner, clock = FakeExporter(), Clock()
    exporter = BoundedExporter(inner, "http://collector", clock=clock)
    before = spans_exported.labels("lost")._value.get()
    for seconds in (0, 1, SECONDS_BETWEEN_LINES - 2, 1):
        clock.now += seconds
        assert exporter.export([ReadableSpan("work")] * 10) is SpanExportResult.FAILURE
    assert [line["spans"] for line in logs.of("spans_lost")] == [10, 30]
    assert spans_exported.labels("lost")._value.get() - before == 40
    inner.result = SpanExportResult.SUCCESS
    assert exporter.export([ReadableSpan("work")]) is SpanExportResult.SUCCESS
    assert len(logs.lines) == 2


@pytest.mark.usefixtures("logs")
def test_at_the_end_no_batch_begins_after_the_time_for_it() -> None:
    inner, clock = FakeExporter(), Clock()
    inner.result = SpanExportResult.SUCCESS
    exporter = BoundedExporter(inner, "http://collector", clock=clock)
    exporter.stop_after(2)
    clock.now += 1.9
    assert exporter.export([]) is SpanExportResult.SUCCESS
    clock.now += 0.1
    assert exporter.export([]) is SpanExportResult.FAILURE
    assert inner.batches == [0]


@pytest.mark.parametrize(
    ("environment", "telemetry", "ratio"),
    [
        ("dev", {}, 1.0),
        ("test", {}, 1.0),
        ("prod", {}, 0.1),
        ("prod", {"sample_ratio": 1}, 1.0),
        ("dev", {"sample_ratio": 0}, 0.0),
    ],
)
def test_production_records_a_tenth_of_its_traces_unless_told_otherwise(
    environment: str, telemetry: dict[str, object], ratio: float
) -> None:
    assert settings(environment, **telemetry).trace_sample_ratio == ratio


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_share_is_between_none_and_all(ratio: float) -> None:
    with pytest.raises(ValidationError):
        settings("dev", sample_ratio=ratio)
