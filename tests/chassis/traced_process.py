"""A traced process of its own, for test_tracing_process.py: ends spans, stops tracing, and says how long that took."""

import json
import sys
import time

from chassis.config.settings import DatabaseSettings, LogSettings, ServiceSettings, TelemetrySettings
from chassis.logging import configure_logging, get_logger
from chassis.telemetry import configure_tracing, current_traceparent, span
from pydantic import SecretStr


class Settings(ServiceSettings):
    service_name = "shop"


def main(spans: int, endpoint: str | None) -> None:
    configure_logging(LogSettings(format="json"))
    settings = Settings(
        database=DatabaseSettings(name="none", user="none", password=SecretStr("none")),
        telemetry=TelemetrySettings(otlp_endpoint=endpoint),
    )
    stop = configure_tracing(settings, version="1", instance_id="one")
    for _ in range(spans):
        with span("work"):
            traceparent = current_traceparent()
    started = time.monotonic()
    stop()
    get_logger(__name__).info(
        "process_stopped",
        seconds=time.monotonic() - started,
        traceparent=traceparent,
        exporter_loaded="opentelemetry.exporter.otlp.proto.http" in sys.modules,
    )


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
