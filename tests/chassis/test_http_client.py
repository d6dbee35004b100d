"""Outbound calls against a real server on loopback: each way to fail has its error, and the patterns nest in order."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from chassis.calls.http_client import HttpDependency, Response, bearer, request_seconds
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import BreakerSettings, DependencySettings, RetrySettings
from chassis.errors import (
    BreakerOpen,
    BulkheadFull,
    DeadlineExceeded,
    DependencyError,
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
)
from chassis.logging import request_id_var
from chassis.logging.debugging import HEADER, DebugRequests, sign
from chassis.retries import deadlines
from chassis.telemetry import span
from pydantic import BaseModel, SecretStr, ValidationError
from waiting import eventually

QUICK = RetrySettings(base_delay=0.001, max_delay=0.002)
PATIENT = BreakerSettings(minimum_calls=20, slow_call_duration=0.09)

type Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
type Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A real HTTP server whose answer the test sets; it keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.answer: Answer = self.ok
        self.arrived = asyncio.Semaphore(0)
        self.release = asyncio.Event()
        self.url = ""

    async def ok(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"id": "ch_1"}, status=201)

    async def hang(self, request: web.Request) -> web.StreamResponse:
        """Answer only once released, which the end of the test does."""
        await self.release.wait()
        return await self.ok(request)

    def answers(self, *statuses: int, headers: dict[str, str] | None = None) -> None:
        """Answer with these statuses in turn, then with the last one for ever."""
        left = list(statuses)

        async def answer(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=left.pop(0) if len(left) > 1 else left[0], headers=headers, body=b'{"a": 1}')

        self.answer = answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Keep the request and answer as the test has set."""
        self.requests.append(request)
        self.bodies.append(await request.read())
        self.arrived.release()
        return await self.answer(request)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    server.release.set()
    await runner.cleanup()


@asynccontextmanager
async def raw_server(connection: Connection) -> AsyncIterator[str]:
    """A server below HTTP, for answers that no HTTP server gives."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await connection(reader, writer)
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()


@asynccontextmanager
async def dependency(
    base_url: str,
    *,
    name: str = "provider",
    breakers: BreakerRegistry | None = None,
    is_external: bool = False,
    resolver: AbstractResolver | None = None,
    **changes: object,
) -> AsyncIterator[HttpDependency]:
    limits: dict[str, object] = {"attempt_timeout": 5.0, "retry": QUICK, "breaker": PATIENT} | changes
    settings = DependencySettings.model_validate({"base_url": base_url, **limits})
    opened = HttpDependency(
        name,
        settings,
        authorization=bearer(SecretStr("key")),
        breakers=breakers or BreakerRegistry(),
        is_external=is_external,
        resolver=resolver,
    )
    try:
        yield opened
    finally:
        await opened.close()


async def charge(called: HttpDependency, *, idempotent: bool = True, retrying: bool = False) -> Response:
    return await called.request(
        "POST", "/charges", operation="charge", json={"amount": 100}, idempotent=idempotent, retrying=retrying
    )


def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


async def test_an_answer_comes_back_whole(server: Server) -> None:
    async with dependency(server.url) as provider:
        response = await charge(provider)
    assert (response.status, response.json(), response.degraded) == (201, {"id": "ch_1"}, False)
    assert response.headers["content-type"].startswith("application/json")
    request = server.requests[0]
    assert (request.method, request.path, server.bodies[0]) == ("POST", "/charges", b'{"amount":100}')
    assert request.headers["Authorization"] == "Bearer key"
    assert request.headers["Content-Type"] == "application/json"


async def test_deadline_request_id_trace_and_own_headers_travel_along(server: Server) -> None:
    token = request_id_var.set("req-1")
    try:
        with deadlines.deadline(1.0), span("request") as current:
            async with dependency(server.url) as provider:
                await provider.request(
                    "GET", "/charges", operation="find", params={"q": "a b&c"}, headers={"Idempotency-Key": "k"}
                )
    finally:
        request_id_var.reset(token)
    request = server.requests[0]
    assert 500 < int(request.headers[deadlines.HEADER]) <= 1000
    assert request.headers["X-Request-ID"] == "req-1"
    assert format(current.get_span_context().trace_id, "032x") in request.headers["traceparent"]
    assert request.headers["Idempotency-Key"] == "k"
    assert request.query["q"] == "a b&c"


@pytest.mark.parametrize("is_external", [False, True])
async def test_the_header_that_turns_debug_on_is_sent_to_our_own_services_alone(
    server: Server, *, is_external: bool
) -> None:
    header = sign("k" * 32, expires=int(time.time()) + 60)
    with DebugRequests("k" * 32, time.time).scope(header):
        async with dependency(server.url, is_external=is_external) as called:
            await charge(called)
    assert server.requests[0].headers.get(HEADER) == (None if is_external else header)


async def test_without_a_deadline_the_attempts_time_out_is_sent_along(server: Server) -> None:
    async with dependency(server.url, attempt_timeout=2) as provider:
        await charge(provider)
    assert server.requests[0].headers[deadlines.HEADER] == "2000"


async def test_a_refused_connection_is_known_not_to_have_run() -> None:
    async with dependency(f"http://127.0.0.1:{closed_port()}") as provider:
        with pytest.raises(DependencyUnavailable, match="no connection") as raised:
            await charge(provider)
    assert raised.value.outcome == "not_run"


class NoSuchHost(AbstractResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        raise OSError(None, f"no such host: {host}:{port} ({family})")

    async def close(self) -> None:
        pass


async def test_an_unknown_host_is_known_not_to_have_run() -> None:
    async with dependency("http://provider.test", resolver=NoSuchHost()) as provider:
        with pytest.raises(DependencyUnavailable):
            await charge(provider)


async def test_a_wait_for_a_connection_that_is_too_long_is_known_not_to_have_run(server: Server) -> None:
    server.answer = server.hang
    async with dependency(server.url, max_connections=1, max_in_flight=1, connect_timeout=0.05) as provider:
        provider._bulkhead.limit = 2  # what the settings forbid: it queues in the pool
        first = asyncio.create_task(charge(provider))
        await server.arrived.acquire()
        with pytest.raises(DependencyUnavailable):
            await charge(provider)
        server.release.set()
        assert (await first).status == 201
    assert len(server.requests) == 1


async def test_429_is_known_not_to_have_run_and_says_when_to_come_back(server: Server) -> None:
    server.answers(429, headers={"Retry-After": "7"})
    async with dependency(server.url) as provider:
        with pytest.raises(DependencyUnavailable) as raised:
            await charge(provider)
    assert (raised.value.outcome, raised.value.status, raised.value.retry_after) == ("not_run", 429, 7)


@pytest.mark.parametrize("status", [400, 402, 404, 409, 422])
async def test_another_4xx_is_handed_to_the_caller_with_its_body(server: Server, status: int) -> None:
    server.answers(status)
    async with dependency(server.url) as provider:
        with pytest.raises(DependencyRejected) as raised:
            await charge(provider, retrying=True)
    assert (raised.value.status, raised.value.body, raised.value.outcome) == (status, b'{"a": 1}', "answered")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_5xx_may_have_run(server: Server, status: int) -> None:
    server.answers(status)
    async with dependency(server.url) as provider:
        with pytest.raises(DependencyFailed) as raised:
            await charge(provider)
    assert (raised.value.outcome, raised.value.status) == ("unknown", status)


async def test_a_redirect_is_not_followed(server: Server) -> None:
    server.answers(307, headers={"Location": f"{server.url}/elsewhere"})
    async with dependency(server.url) as provider:
        with pytest.raises(DependencyFailed, match="answered 307"):
            await charge(provider)
    assert [request.path for request in server.requests] == ["/charges"]


async def test_an_answer_that_does_not_come_is_a_time_out(server: Server) -> None:
    server.answer = server.hang
    async with dependency(server.url, attempt_timeout=0.1, connect_timeout=0.1) as provider:
        with pytest.raises(DependencyTimeout) as raised:
            await charge(provider)
    assert raised.value.outcome == "unknown"


async def test_an_answer_that_drips_for_ever_cannot_outlive_the_time_out() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b".")
            await asyncio.sleep(0.01)

    async with raw_server(drip) as url, dependency(url, attempt_timeout=0.15, connect_timeout=0.1) as provider:
        with pytest.raises(DependencyTimeout):
            await charge(provider)


async def test_the_callers_deadline_cuts_an_attempt_short(server: Server) -> None:
    server.answer = server.hang
    async with dependency(server.url) as provider:
        with deadlines.deadline(0.1), pytest.raises(DependencyTimeout):
            await charge(provider, retrying=True)
    assert len(server.requests) == 1


async def forbidden(_attempt: int) -> None:
    """Fail the test: nothing may be begun, and what was not begun is not reported."""
    pytest.fail("the hook was called")


async def test_work_whose_time_is_spent_is_not_sent(server: Server) -> None:
    async with dependency(server.url) as provider:
        with deadlines.deadline(0), pytest.raises(DeadlineExceeded, match="calling provider"):
            await provider.request("POST", "/charges", operation="charge", before_attempt=forbidden)
    assert server.requests == []


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


async def end_without_an_answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def reset_mid_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await writer.drain()
    writer.transport.abort()


async def truncated_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


async def not_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"SSH-2.0-OpenSSH_10.0\r\n\r\n")


async def not_gzip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nhalf")


@pytest.mark.parametrize(
    "connection", [reset, end_without_an_answer, reset_mid_body, truncated_body, not_http, not_gzip]
)
async def test_a_connection_lost_or_garbled_after_sending_may_have_run(connection: Connection) -> None:
    async with raw_server(connection) as url, dependency(url) as provider:
        with pytest.raises(DependencyFailed) as raised:
            await charge(provider)
    assert (raised.value.outcome, raised.value.status) == ("unknown", None)


async def loses_the_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: list[bytes]) -> None:
    received.append(await reader.readuntil(b"\r\n\r\n"))
    if len(received) > 1:
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")


async def test_a_loop_that_waits_for_the_builtin_errors_never_repeats_a_lost_connection_and_ours_does() -> None:
    """The usual listing: `except (ConnectionError, TimeoutError)` around a client whose errors are neither."""
    for_the_loop: list[bytes] = []

    async def usual(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            for _ in range(5):
                try:
                    await session.post(url)
                except (ConnectionError, TimeoutError):
                    continue

    async with raw_server(lambda *ends: loses_the_first(*ends, for_the_loop)) as url:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await usual(url)
    for_us: list[bytes] = []
    async with raw_server(lambda *ends: loses_the_first(*ends, for_us)) as url, dependency(url) as provider:
        assert (await charge(provider, retrying=True)).status == 201
    assert (len(for_the_loop), len(for_us)) == (1, 2)


async def test_a_lost_put_is_sent_once_and_not_reported_as_refused() -> None:
    """Left to itself, aiohttp repeats a lost PUT; refused the second time, it would report the refusal."""
    received = 0

    async def lose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        received += 1
        listener.close()
        writer.close()

    listener = await asyncio.start_server(lose, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with dependency(f"http://127.0.0.1:{port}") as provider:
        with pytest.raises(DependencyFailed):
            await provider.request("PUT", "/endpoints/1", operation="put_endpoint", idempotent=True)
    assert received == 1


async def test_a_body_larger_than_allowed_is_not_read_to_its_end(server: Server) -> None:
    async def large(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * 10_000)

    server.answer = large
    async with dependency(server.url, max_response_bytes=9_999) as provider:
        with pytest.raises(DependencyFailed, match="larger than 9999 bytes"):
            await charge(provider, retrying=True)
    async with dependency(server.url, max_response_bytes=10_000) as provider:
        assert len((await charge(provider)).body) == 10_000
    assert len(server.requests) == 2


def test_an_answer_that_is_not_json_is_a_failure_of_the_dependency() -> None:
    with pytest.raises(DependencyFailed, match="not JSON"):
        Response("provider", 200, b"<html>").json()


class Charge(BaseModel):
    """What the test expects as an answer."""

    id: str


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"id": 1}'])
def test_an_answer_of_another_shape_is_a_failure_of_the_dependency(body: bytes) -> None:
    assert Response("provider", 200, b'{"id": "ch_1"}').parse(Charge) == Charge(id="ch_1")
    with pytest.raises(DependencyFailed, match="no Charge") as raised:
        Response("provider", 200, body).parse(Charge)
    assert raised.value.outcome == "unknown"


async def test_a_retrying_call_recovers_with_the_same_key_on_every_attempt(server: Server) -> None:
    server.answers(503, 502, 201)
    async with dependency(server.url) as provider:
        response = await provider.request(
            "POST",
            "/charges",
            operation="charge",
            json={},
            headers={"Idempotency-Key": "charge:1"},
            idempotent=True,
            retrying=True,
        )
    assert response.status == 201
    assert [request.headers["Idempotency-Key"] for request in server.requests] == ["charge:1"] * 3


async def test_a_call_that_is_not_retrying_is_a_single_attempt(server: Server) -> None:
    server.answers(503)
    async with dependency(server.url) as provider:
        with pytest.raises(DependencyFailed):
            await charge(provider)
    assert len(server.requests) == 1


async def test_the_caller_hears_of_each_attempt_before_it_is_sent_and_which_did_not_run(server: Server) -> None:
    server.answers(429, 503, 201)
    log: list[str] = []

    async def before(attempt: int) -> None:
        log.append(f"before {attempt}, {len(server.requests)} sent")

    async def not_run(attempt: int) -> None:
        log.append(f"not run {attempt}")

    async with dependency(server.url) as provider:
        await provider.request(
            "POST",
            "/charges",
            operation="charge",
            idempotent=True,
            retrying=True,
            before_attempt=before,
            on_not_run=not_run,
        )
    assert log == ["before 1, 0 sent", "not run 1", "before 2, 1 sent", "before 3, 2 sent"]


async def test_an_attempt_that_cannot_be_recorded_is_not_sent(server: Server) -> None:
    async def before(_attempt: int) -> None:
        raise RuntimeError("the database is down")

    async with dependency(server.url) as provider:
        with pytest.raises(RuntimeError, match="database"):
            await provider.request(
                "POST", "/charges", operation="charge", before_attempt=before, on_not_run=forbidden, retrying=True
            )
        assert provider._bulkhead.in_flight == 0
    assert server.requests == []


async def test_an_attempt_whose_time_ran_out_before_sending_is_reported_as_not_run(server: Server) -> None:
    reported: list[int] = []

    async def before(_attempt: int) -> None:
        await asyncio.sleep(0.02)

    async def not_run(attempt: int) -> None:
        reported.append(attempt)

    async with dependency(server.url) as provider:
        with deadlines.deadline(0.01), pytest.raises(DeadlineExceeded):
            await provider.request(
                "POST", "/charges", operation="charge", before_attempt=before, on_not_run=not_run, retrying=True
            )
    assert (reported, server.requests) == ([1], [])


async def test_an_open_breaker_sends_nothing_begins_no_attempt_and_is_not_retried(server: Server) -> None:
    server.answers(500)
    breaker = BreakerSettings(minimum_calls=2, window_size=2)

    async with dependency(server.url, breaker=breaker) as provider:
        for _ in range(2):
            with pytest.raises(DependencyFailed):
                await charge(provider)
        with pytest.raises(BreakerOpen):
            await provider.request(
                "POST",
                "/charges",
                operation="charge",
                before_attempt=forbidden,
                on_not_run=forbidden,
                retrying=True,
            )
        server.answers(200)
        await provider.request("POST", "/refunds", operation="refund")
    assert [request.path for request in server.requests] == ["/charges", "/charges", "/refunds"]


async def test_of_a_thousand_concurrent_callers_exactly_the_permits_reach_a_recovering_server(server: Server) -> None:
    now = 0.0
    server.answers(500)
    breaker = BreakerSettings(minimum_calls=2, window_size=2, open_seconds=10, half_open_calls=2)
    async with dependency(
        server.url, breakers=BreakerRegistry(clock=lambda: now), breaker=breaker, attempt_timeout=7, connect_timeout=7
    ) as provider:
        for _ in range(2):
            with pytest.raises(DependencyFailed):
                await charge(provider)
            await server.arrived.acquire()
        now, server.answer = 20, server.hang
        callers = [asyncio.create_task(charge(provider, retrying=True)) for _ in range(1000)]
        for _ in range(2):
            await server.arrived.acquire()
        refused = [task for task in callers if task.done()]
        assert len(refused) == 998
        assert all(isinstance(task.exception(), BreakerOpen) for task in refused)
        server.release.set()
        answers = await asyncio.gather(*(task for task in callers if task not in refused))
        assert [answer.status for answer in answers] == [201, 201]
        assert len(server.requests) == 2 + 2
        assert (await charge(provider)).status == 201


async def test_a_trial_that_is_cancelled_or_cut_off_lets_the_next_caller_try(server: Server) -> None:
    now = 0.0
    server.answers(500)
    breaker = BreakerSettings(minimum_calls=1, window_size=1, open_seconds=10)
    async with dependency(server.url, breakers=BreakerRegistry(clock=lambda: now), breaker=breaker) as provider:
        with pytest.raises(DependencyFailed):
            await charge(provider)
        await server.arrived.acquire()
        now, server.answer = 20, server.hang
        for _ in range(3):
            trial = asyncio.create_task(charge(provider))
            await server.arrived.acquire()
            with pytest.raises(BreakerOpen):
                await charge(provider)
            trial.cancel()
            await asyncio.wait([trial])
        with pytest.raises(DependencyTimeout), deadlines.deadline(0.2):
            await charge(provider)
        now, server.answer = 60, server.ok
        assert (await charge(provider)).status == 201


async def test_a_wait_between_attempts_holds_no_place_in_the_bulkhead(server: Server) -> None:
    server.answers(429, 201, headers={"Retry-After": "1"})
    async with dependency(server.url, max_in_flight=1) as provider:
        waiting = asyncio.create_task(charge(provider, retrying=True))
        await server.arrived.acquire()

        async def is_waiting() -> bool:
            return provider._bulkhead.in_flight == 0

        await eventually(is_waiting)
        assert (await charge(provider)).status == 201
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_full_bulkhead_rejects_at_once_and_does_not_open_the_breaker(server: Server) -> None:
    server.answer = server.hang
    breakers = BreakerSettings(minimum_calls=2, window_size=2)
    async with dependency(server.url, max_in_flight=2, breaker=breakers) as provider:
        running = [asyncio.create_task(charge(provider)) for _ in range(2)]
        await server.arrived.acquire()
        await server.arrived.acquire()
        for _ in range(10):
            with pytest.raises(BulkheadFull):
                await charge(provider, retrying=True)
        server.release.set()
        assert [response.status for response in await asyncio.gather(*running)] == [201, 201]
        assert (await charge(provider)).status == 201
    assert len(server.requests) == 3


async def test_an_open_breaker_is_asked_before_the_bulkhead(server: Server) -> None:
    """An open operation must not take places that another operation of the same dependency could use."""
    server.answers(500)
    breaker = BreakerSettings(minimum_calls=1, window_size=1)
    async with dependency(server.url, max_in_flight=1, breaker=breaker) as provider:
        with pytest.raises(DependencyFailed):
            await charge(provider)
        await server.arrived.acquire()
        server.answer = server.hang
        refund = asyncio.create_task(provider.request("POST", "/refunds", operation="refund"))
        await server.arrived.acquire()
        with pytest.raises(BreakerOpen):
            await charge(provider)
        server.release.set()
        assert (await refund).status == 201


async def test_a_slow_hook_is_not_held_against_the_dependency(server: Server) -> None:
    now = 0.0

    async def slow_commit(_attempt: int) -> None:
        nonlocal now
        now += 30

    breaker = BreakerSettings(minimum_calls=1, window_size=1, slow_call_duration=4)
    async with dependency(server.url, breakers=BreakerRegistry(clock=lambda: now), breaker=breaker) as provider:
        for _ in range(3):
            await provider.request("POST", "/charges", operation="charge", before_attempt=slow_commit)
    assert len(server.requests) == 3


async def test_a_fallback_answers_once_everything_has_failed_and_is_marked_degraded(server: Server) -> None:
    server.answers(503)
    seen: list[DependencyError] = []

    async def stale(error: DependencyError) -> Response:
        seen.append(error)
        return Response("cache", 200, b"[]")

    async with dependency(server.url) as provider:
        response = await provider.request(
            "GET", "/products", operation="products", idempotent=True, retrying=True, fallback=stale
        )
        assert (response.body, response.degraded) == (b"[]", True)
        assert len(server.requests) == QUICK.max_attempts
        assert isinstance(seen[0], DependencyFailed)
        server.answers(404)
        with pytest.raises(DependencyRejected):
            await provider.request("GET", "/products", operation="products", fallback=stale)


async def test_a_cancelled_call_gives_everything_back(server: Server) -> None:
    server.answer = server.hang
    async with dependency(server.url) as provider:
        task = asyncio.create_task(charge(provider, retrying=True))
        await server.arrived.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert provider._bulkhead.in_flight == 0
    assert len(server.requests) == 1


async def test_each_attempt_is_measured_by_status_or_error(server: Server) -> None:
    def count(status: str, error_type: str) -> float:
        value: float = request_seconds.labels("metered", "charge", status, error_type)._sum.get()
        return value

    server.answers(503, 201)
    async with dependency(server.url, name="metered") as provider:
        await charge(provider, retrying=True)
    assert count("503", "DependencyFailed") > 0
    assert count("201", "") > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"connect_timeout": 3},
        {"attempt_timeout": 8},
        {"max_in_flight": 21},
        {"breaker": {"slow_call_duration": 2}},
        {"breaker": {"minimum_calls": 21}},
        {"breaker": {"open_seconds": 61}},
    ],
)
def test_limits_that_could_never_take_effect_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="must"):
        DependencySettings.model_validate({"base_url": "http://provider", **changes})
