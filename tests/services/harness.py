"""What surrounds a service in these tests: a client of its API, one attempt at a job, its events on a real stream, and
other people's systems as real servers on loopback.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
from aiohttp import web
from api_keys import PEPPERS, caller
from chassis.calls.http_client import HttpDependency, bearer
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import (
    BreakerSettings,
    DependencySettings,
    ExternalDependencySettings,
    OutboxSettings,
    RateLimitSettings,
    RetrySettings,
    ServiceDependencySettings,
)
from chassis.errors import LeaseLost, PermanentJobError
from chassis.events.consumer import Consumer
from chassis.events.delivery import Handler
from chassis.events.inbox import Received
from chassis.events.outbox import Event
from chassis.jobs import JobPayload, RunningJob
from chassis.jobs.statements import STATEMENTS
from chassis.pooling import Database, names_of
from fastapi import FastAPI
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import Row, text
from waiting import eventually

AUTH = PEPPERS
SHOP, OTHER_SHOP = "shop", "other-shop"
UNLIMITED = RateLimitSettings(rate_per_second=10_000, burst=100_000)

_UUID = re.compile(r"\{[a-z_]+\}")


def dependency(url: str) -> ExternalDependencySettings:
    """A dependency whose limits are those of a test: a hanging answer costs 0.2 s, a breaker stays closed."""
    return ExternalDependencySettings(base_url=url, api_key=SecretStr("key"), **_QUICK)


def own_service(url: str) -> ServiceDependencySettings:
    """The same of a service of ours."""
    return ServiceDependencySettings(base_url=url, token_secret=SecretStr("t" * 64), **_QUICK)


_QUICK = {
    "connect_timeout": 0.2,
    "attempt_timeout": 0.2,
    "retry": RetrySettings(max_attempts=3, base_delay=0.001, max_delay=0.002, total_timeout=2, budget_floor=100),
    "breaker": BreakerSettings(minimum_calls=20, window_size=20, slow_call_duration=0.19),
}


def http_client(name: str, settings: DependencySettings) -> HttpDependency:
    """A client of somebody who lets everybody in."""
    return HttpDependency(name, settings, authorization=bearer(SecretStr("key")), breakers=BreakerRegistry())


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[Callable[..., httpx.AsyncClient]]:
    """The application with what it opens; yields a maker of clients by principal (None: without a key).

    Every answer is checked: its status is documented for its route, and an error comes in the envelope.
    """
    documented = _documented(app)

    async def check(response: httpx.Response) -> None:
        statuses = documented(response.request)
        assert statuses is None or response.status_code in statuses, f"{response.status_code} is not documented"
        if response.status_code >= 400:
            body = orjson.loads(await response.aread())
            assert body.keys() == {"error", "request_id"}

    def client(principal: str | None = SHOP) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://service",
            headers=caller(principal) if principal else {},
            event_hooks={"response": [check]},
        )

    async with app.router.lifespan_context(app):
        yield client


def _documented(app: FastAPI) -> Callable[[httpx.Request], set[int] | None]:
    """The statuses that are documented for a request's route; None for a request that has none."""
    if app.title not in _OPERATIONS:
        _OPERATIONS[app.title] = _operations(app)
    operations = _OPERATIONS[app.title]

    def statuses(request: httpx.Request) -> set[int] | None:
        for method, path, found in operations:
            if method == request.method and path.fullmatch(request.url.path):
                return found
        return None

    return statuses


type Operation = tuple[str, re.Pattern[str], set[int]]

_OPERATIONS: dict[str, list[Operation]] = {}
"""By the service's name: its document is always the same, and takes as long to make as a test."""


def _operations(app: FastAPI) -> list[Operation]:
    return [
        (method.upper(), re.compile(_UUID.sub("[^/]+", path)), {int(status) for status in operation["responses"]})
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
    ]


# Databases


async def rows(database: Database, query: str, **values: object) -> Sequence[Row[Any]]:
    async with database.read() as session:
        return (await session.execute(text(query), values)).all()


async def one(database: Database, query: str, **values: object) -> Row[Any]:
    (row,) = await rows(database, query, **values)
    return row


async def count(database: Database, table: str) -> int:
    (row,) = await rows(database, f"SELECT count(*) AS rows FROM {table}")
    found: int = row.rows
    return found


async def execute(database: Database, statement: str, **values: object) -> None:
    async with database.transaction() as session:
        await session.execute(text(statement), values)


async def events(database: Database, aggregate_id: object) -> list[tuple[int, str]]:
    """Version and type of the events written about something, in the order of versions."""
    found = await rows(
        database,
        "SELECT aggregate_version, type FROM outbox WHERE aggregate_id = :id ORDER BY aggregate_version",
        id=str(aggregate_id),
    )
    return [(row.aggregate_version, row.type) for row in found]


# Jobs


async def attempt[P: JobPayload](
    database: Database, kind: type[P], handler: Callable[[RunningJob, P], Awaitable[None]]
) -> Exception | None:
    """One attempt at the oldest due job, as the runner makes it; returns what the handler raised.

    A handler that fails leaves the job due again, or buried when its error is permanent.
    """
    async with database.transaction() as session:
        values = {
            "queue": kind.options.queue,
            "worker": "test",
            "lease": 60.0,
            "count": 1,
            "suspects": False,
            "alone": False,
            "lookback": None,
        }
        row = (await session.execute(STATEMENTS["turn"], {"ids": [], "attempts": [], **values})).one()
    assert row.name == kind.options.name
    job = RunningJob(id=row.id, name=row.name, attempt=row.attempt, max_attempts=row.max_attempts)
    try:
        await handler(job, kind.model_validate_json(row.payload))
    except LeaseLost as error:
        return error
    except Exception as error:  # noqa: BLE001  the edge of a job, as in the runner
        await _end(database, "bury" if isinstance(error, PermanentJobError) else "retry", job, error)
        return error
    if not job.is_complete:
        await _end(database, "complete", job, None)
    return None


async def _end(database: Database, statement: str, job: RunningJob, error: Exception | None) -> None:
    async with database.transaction() as session:
        values = {"id": job.id, "attempt": job.attempt, "delay": 0.0, "granted": 0, "error": repr(error)}
        assert await session.scalar(STATEMENTS[statement], values) == job.id


async def job_statuses(database: Database, name: str) -> list[str]:
    return [row.status for row in await rows(database, "SELECT status FROM job WHERE name = :name", name=name)]


# Events


def envelope(event: Event, *, aggregate_id: object, version: int, event_id: UUID | None = None) -> str:
    """An event as a relay publishes it."""
    return orjson.dumps(
        {
            "event_id": event_id or uuid4(),
            "type": event.options.type,
            "schema": event.options.version,
            "aggregate_id": str(aggregate_id),
            "aggregate_version": version,
            "occurred_at": "2026-01-01T00:00:00+00:00",
            "traceparent": None,
            "payload": event.model_dump(mode="json"),
        }
    ).decode()


def received[E: Event](event: E, *, aggregate_id: object, version: int) -> Received[E]:
    """The event as its handler gets it, for a test that is about the handler alone."""
    sent = orjson.loads(envelope(event, aggregate_id=aggregate_id, version=version))
    return Received(
        consumer="test",
        event_id=UUID(sent["event_id"]),
        aggregate_id=str(aggregate_id),
        aggregate_version=version,
        occurred_at=sent["occurred_at"],
        traceparent=None,
        debug=None,
        payload=event,
        json=orjson.dumps(sent).decode(),
    )


async def deliver(
    redis: Redis, database: Database, handlers: Iterable[tuple[type[Event], Handler]], *envelopes: str, stream: str
) -> None:
    """Publish to a real stream and consume it until nothing is left."""
    consumer = Consumer(
        redis,
        database,
        OutboxSettings(poll_interval=0.02),
        group=f"test of {stream}",
        streams=[stream],
        handlers=dict(handlers),
        name=uuid4().hex,
    )
    key = names_of(redis).stream(stream)
    for event in envelopes:
        await redis.xadd(key, {"event": event})

    async def is_drained() -> bool:
        groups = await redis.xinfo_groups(key)
        return any(group["lag"] == 0 and group["pending"] == 0 for group in groups)

    stopping = asyncio.Event()
    task = asyncio.create_task(consumer.run(stopping))
    try:
        await eventually(is_drained)
    finally:
        stopping.set()
        await task


# Other people's systems

type Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Asked:
    """A request that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    json: Any


@dataclass(slots=True)
class FakeServer:
    """Somebody else's HTTP service: the test sets its answer and sees what it was asked."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Answer | None = None

    def answers(self, status: int, body: object = None, *, headers: Mapping[str, str] | None = None) -> None:
        """Give this answer from now on."""

        async def answer(_request: web.Request) -> web.StreamResponse:
            return web.json_response(body, status=status, headers=headers)

        self.answer = answer

    def resets(self) -> None:
        """Read the request, then end the connection without an answer."""

        async def answer(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        self.answer = answer

    def hangs(self) -> None:
        """Never answer."""

        async def answer(_request: web.Request) -> web.StreamResponse:
            await asyncio.get_running_loop().create_future()
            return web.Response()

        self.answer = answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.asked.append(Asked(request.method, request.path, request.headers, body))
        assert self.answer is not None
        return await self.answer(request)


@asynccontextmanager
async def fake_server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()
