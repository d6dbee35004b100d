"""The same call through `chassis.calls.http_client`, as a worker in production makes it: retry with its budget,
breaker, bulkhead, deadline, fallback; metrics, the trace continued (one in ten recorded), JSON lines at INFO.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from chassis.calls.http_client import HttpDependency, Response, bearer
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import DependencySettings, LogSettings
from chassis.errors import DependencyError
from chassis.logging import canonical_line, configure_logging
from chassis.retries import deadlines
from chassis.telemetry import LIMITS, span
from measuring import CHARGE, Call, main
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from pydantic import SecretStr

_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0{}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Call]:
    configure_logging(LogSettings(level="INFO", format="json"), service="bench", version="1", environment="prod")
    trace.set_tracer_provider(TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.1)), span_limits=LIMITS))
    provider = HttpDependency(
        "provider",
        DependencySettings(base_url=url),
        authorization=bearer(SecretStr("key")),
        breakers=BreakerRegistry(),
        is_external=True,
    )

    async def call() -> object:
        answer = await provider.request(
            "POST",
            "/charges",
            operation="charge",
            json=CHARGE,
            headers={"Idempotency-Key": "charge:1"},
            idempotent=True,
            retrying=True,
            fallback=_none,
        )
        return answer.json()

    try:
        yield call
    finally:
        await provider.close()


async def _none(_error: DependencyError) -> Response:
    return Response("provider", 200, b'{"id": "none"}')


@contextmanager
def in_a_job(caller: int) -> Iterator[None]:
    """What a job has around its calls; of ten callers, one's trace is recorded."""
    with span("run", traceparent=_TRACE.format(int(caller == 0))), canonical_line(), deadlines.deadline(3600):
        yield


if __name__ == "__main__":
    main(opened, in_a_job)
