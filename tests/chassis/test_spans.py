"""What the chassis records of requests, calls, jobs and events: names, kinds and failures as OpenTelemetry has them."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
from aiohttp import web
from chassis import telemetry
from chassis.app.api.middleware import RequestContext
from chassis.calls.http_client import HttpDependency, bearer
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import DatabaseSettings, DependencySettings, HttpSettings, JobSettings, OutboxSettings
from chassis.errors import DependencyError
from chassis.events.consumer import Consumer
from chassis.events.inbox import Received
from chassis.events.outbox import Event
from chassis.events.outbox import publish as publish_event
from chassis.fast.otel_sampler import Sampler
from chassis.jobs import JobPayload, RunningJob, enqueue
from chassis.jobs.runner import JobRunner
from chassis.pooling import Database, Session
from chassis.pooling.wakeup import Wakeups
from chassis.telemetry import SpanKind, StatusCode
from httpx import ASGITransport, AsyncClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import eventually


class Ship(JobPayload, job="ship", max_attempts=1):
    pass


class OrderPlaced(Event, type="order.placed"):
    pass


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    async def named(self, name: str) -> ReadableSpan:
        async def look() -> list[ReadableSpan]:
            return [span for span in self._exporter.get_finished_spans() if span.name == name]

        (span,) = await eventually(look)
        return span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    monkeypatch.setattr(telemetry, "_sampler", Sampler(1.0))
    yield Spans(exporter)
    provider.shutdown()


@pytest.fixture
async def wakeups(database_settings: DatabaseSettings) -> AsyncIterator[Wakeups]:
    async with Wakeups(database_settings, application_name="test") as wakeups:
        yield wakeups


def is_failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


async def answer(request: Request) -> Response:
    if request.path_params["status"] == "crash":
        raise RuntimeError
    return Response(status_code=int(request.path_params["status"]))


async def get(path: str, **headers: str) -> None:
    app = RequestContext(Starlette(routes=[Route("/orders/{status}", answer)]), HttpSettings())
    async with AsyncClient(transport=ASGITransport(app), base_url="http://service") as client:
        await client.get(path, headers=headers)


@pytest.mark.parametrize(("status", "failed"), [("200", False), ("404", False), ("503", True)])
async def test_a_request_is_named_by_its_route_and_fails_with_a_5xx_only(
    spans: Spans, status: str, *, failed: bool
) -> None:
    await get(f"/orders/{status}?token=s3cret", authorization="Bearer s3cret")
    span = await spans.named("GET /orders/{status}")
    attributes = {
        "http.request.method": "GET",
        "url.path": f"/orders/{status}",
        "url.scheme": "http",
        "http.route": "/orders/{status}",
        "http.response.status_code": int(status),
    }
    assert span.attributes == (attributes | {"error.type": status} if failed else attributes)
    assert (span.kind, is_failed(span)) == (SpanKind.SERVER, failed)


async def test_a_crashed_request_is_a_failed_span(spans: Spans) -> None:
    await get("/orders/crash")
    assert is_failed(await spans.named("GET /orders/{status}"))


async def test_a_method_that_nobody_knows_makes_no_new_name(spans: Spans) -> None:
    app = RequestContext(Starlette(), HttpSettings())
    async with AsyncClient(transport=ASGITransport(app), base_url="http://service") as client:
        await client.request("BREW", "/coffee")
    assert (await spans.named("_OTHER unmatched")).attributes is not None


async def test_each_attempt_of_a_call_is_a_span_with_its_status_and_a_url_without_secrets(spans: Spans) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.Response(status=503)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    settings = DependencySettings(base_url=f"http://127.0.0.1:{port}/api/")
    provider = HttpDependency("provider", settings, authorization=bearer(SecretStr("k3y")), breakers=BreakerRegistry())
    with pytest.raises(DependencyError):
        await provider.request("GET", "/charges", operation="find", params={"q": "s3cret"})
    await provider.close()
    await runner.cleanup()
    span = await spans.named("GET find")
    assert span.attributes == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"http://127.0.0.1:{port}/api/charges",
        "peer.service": "provider",
        "http.response.status_code": 503,
        "error.type": "DependencyFailed",
    }
    assert (span.kind, is_failed(span)) == (SpanKind.CLIENT, True)


async def test_a_job_is_the_child_of_its_enqueueing_and_fails_when_it_does(
    spans: Spans, database: Database, wakeups: Wakeups
) -> None:
    async def ship(_job: RunningJob, _payload: Ship) -> None:
        raise LookupError("no such order")

    async with database.transaction() as session:
        await enqueue(session, Ship())
        job_id = await session.scalar(text("SELECT id FROM job"))
    runner = JobRunner(database, {Ship: ship}, JobSettings(poll_interval=0.05), wakeups=wakeups, drain_timeout=5)
    stopping = asyncio.Event()
    task = asyncio.create_task(runner.run(stopping))
    run, enqueued = await spans.named("run ship"), await spans.named("enqueue ship")
    stopping.set()
    await task
    assert (enqueued.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert parent_id(run) == enqueued.context.span_id
    assert run.attributes == {
        "messaging.system": "postgresql",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": str(job_id),
        "holdfast.job.attempt": 1,
        "error.type": "LookupError",
    }
    assert (is_failed(run), run.status.description) == (True, "LookupError: no such order")


async def test_an_event_is_the_child_of_its_publication_and_fails_when_its_handler_does(
    spans: Spans, database: Database, redis: Redis
) -> None:
    async def handle(_session: Session, _received: Received[OrderPlaced]) -> None:
        raise LookupError("no such order")

    async with database.transaction() as session:
        await publish_event(session, OrderPlaced(), stream="orders", aggregate_id="a", aggregate_version=1)
        event_id, traceparent = (await session.execute(text("SELECT event_id, traceparent FROM outbox"))).one()
    envelope = {
        "event_id": event_id,
        "type": "order.placed",
        "schema": 1,
        "aggregate_id": "a",
        "aggregate_version": 1,
        "occurred_at": "2026-01-01T00:00:00Z",
        "traceparent": traceparent,
        "payload": {},
    }
    await redis.xadd("test:orders", {"event": orjson.dumps(envelope, default=str)})
    quick = OutboxSettings(poll_interval=0.05)
    consumer = Consumer(redis, database, quick, group="mail", streams=["orders"], handlers={OrderPlaced: handle})
    stopping = asyncio.Event()
    task = asyncio.create_task(consumer.run(stopping))
    processed, published = await spans.named("process order.placed"), await spans.named("publish order.placed")
    stopping.set()
    await task
    assert (published.kind, processed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert parent_id(processed) == published.context.span_id
    assert processed.attributes == {
        "messaging.system": "redis",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.consumer.group.name": "mail",
        "messaging.message.id": str(event_id),
        "holdfast.event.deliveries": 1,
        "error.type": "LookupError",
    }
    assert is_failed(processed)
