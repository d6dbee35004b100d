"""An error looks the same whoever noticed it: a route, the framework, the management port, the parser of HTTP."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest
from api_keys import authenticator
from captured_logs import captured_logs
from chassis.app.api import Router
from chassis.app.api.application import Application
from chassis.app.api.resources import ApiResources
from chassis.config.settings import HttpSettings, RateLimitSettings
from chassis.errors import ApiError, BreakerOpen, ErrorCode, ErrorDetail
from chassis.errors.answers import PROBLEM_JSON, Answer, answer, wants_problem
from chassis.pooling import Database
from chassis.process.health import Health
from chassis.process.management_app import management_app
from chassis.process.server import Server
from chassis.rate_limiting import RateLimiter
from holdfast_local.ports import free_port
from redis.asyncio import Redis
from starlette.routing import Route

PAGE = "https://docs.example.com/errors"


def answered(code: ErrorCode, *accept: str, **options: float) -> Answer:
    details = [ErrorDetail("a.b", "Wrong.", "x"), ErrorDetail("c", "Wrong, too.")]
    error = ApiError(code, "In words.", details=details, **options)
    return answer(error, request_id="req-1", accept=accept, documentation=PAGE)


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_every_code_has_both_forms_with_the_same_facts(code: ErrorCode) -> None:
    envelope, problem = answered(code), answered(code, PROBLEM_JSON)
    link = f"{PAGE}#{code.name.lower()}"
    details = [{"field": "a.b", "message": "Wrong.", "received": "x"}, {"field": "c", "message": "Wrong, too."}]
    assert envelope.body == {
        "error": {
            "code": code.name,
            "retryable": code.value.retryable,
            "message": "In words.",
            "details": details,
            "documentation_url": link,
        },
        "request_id": "req-1",
    }
    assert problem.body == {
        "type": link,
        "title": code.value.message,
        "status": code.value.status,
        "detail": "In words.",
        "code": code.name,
        "retryable": code.value.retryable,
        "errors": details,
        "request_id": "req-1",
    }
    assert envelope.status == problem.status == code.value.status
    assert envelope.headers["Vary"] == problem.headers["Vary"] == "Accept"
    assert (envelope.headers["Content-Type"], problem.headers["Content-Type"]) == ("application/json", PROBLEM_JSON)


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_whoever_may_retry_is_told_when_and_nobody_else_is(code: ErrorCode) -> None:
    headers = answered(code).headers
    assert ("Retry-After" in headers) == code.value.retryable
    assert ("Retry-After" in answered(code, retry_after=3).headers) == code.value.retryable
    assert code.value.retryable or code.value.status not in {429, 503}
    assert ("WWW-Authenticate" in headers) == (code is ErrorCode.UNAUTHENTICATED)


@pytest.mark.parametrize(("seconds", "sent"), [(0, "1"), (0.2, "1"), (1.2, "2"), (30, "30")])
def test_retry_after_is_whole_seconds_rounded_up_and_never_none(seconds: float, sent: str) -> None:
    assert answered(ErrorCode.OVERLOADED, retry_after=seconds).headers["Retry-After"] == sent
    assert answer(BreakerOpen("bank", retry_after=seconds), request_id="").headers["Retry-After"] == sent


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/problem+json; q=0.000", False),
        ("application/json, application/problem+json", True),
        ("*/*;q=0.8, application/problem+json;q=0.9", True),
        ("application/problem+json;q=0.5, application/json", False),
        ("application/problem+json;q=0.5, application/*", False),
        ("application/json;q=0.1, */*, application/problem+json;q=0.5", True),
        ("application/problem+json;q=0.1, application/problem+json;q=0.9, */*;q=0.5", True),
        ("application/problem+json;q=high", False),
        ("application/problem+json;q=2", False),
        ('text/plain;note="a, application/problem+json"', False),
        ('text/plain;note="never closed, application/problem+json', False),
    ],
)
def test_the_form_is_the_one_that_accept_prefers(accept: str, *, expected: bool) -> None:
    assert wants_problem([accept]) is expected


def test_several_accept_headers_are_one_list() -> None:
    assert wants_problem(["text/html", f"application/json;q=0.5, {PROBLEM_JSON}"])
    assert not wants_problem([])


@pytest.fixture
async def port(database: Database, redis: Redis) -> AsyncIterator[int]:
    """A real server on a real port, with a route that answers and one that reads a body."""
    router = Router()

    @router.get("/here", public=True)
    async def here() -> str:
        return "here"

    @router.put("/here", public=True)
    async def put(body: dict[str, int]) -> int:
        return len(body)

    app = Application(lambda: HttpSettings(documentation_url=PAGE), routers=[router])
    app.resources = ApiResources(
        database=database,
        health=database,
        redis=redis,
        rate_limiter=RateLimiter(redis, RateLimitSettings, service="here"),
        authenticator=await authenticator(database),
        checks={},
    )
    port = free_port()
    async with Server(app, host="127.0.0.1", port=port, drain_timeout=1).running():
        yield port


async def exchange(port: int, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; status, headers and body of the answer, after which the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


CLOSE = b"host: x\r\nconnection: close\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", ErrorCode.MALFORMED_REQUEST),
        (b"GET /here HTTP/1.1\r\nno colon\r\n\r\n", ErrorCode.MALFORMED_REQUEST),
        (b"GET /here HTTP/1.1\r\n\r\n", ErrorCode.MALFORMED_REQUEST),
        (b"GET /he re HTTP/1.1\r\nhost: x\r\n\r\n", ErrorCode.MALFORMED_REQUEST),
        (b"PUT /here HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n", ErrorCode.MALFORMED_REQUEST),
        (
            b"PUT /here HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            ErrorCode.MALFORMED_REQUEST,
        ),
        (b"GET /here HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 70_000, ErrorCode.HEADERS_TOO_LARGE),
        (b"GET /" + b"y" * 70_000, ErrorCode.URI_TOO_LONG),
        (b"GET /here HTTP/1.1\r\n" + CLOSE + b"x: " + b"y" * 70_000 + b"\r\n\r\n", ErrorCode.HEADERS_TOO_LARGE),
        (b"GET /here?" + b"y" * 70_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n", ErrorCode.URI_TOO_LONG),
        (b"GET /nowhere HTTP/1.1\r\n" + CLOSE + b"\r\n", ErrorCode.NOT_FOUND),
        (b"GET * HTTP/1.1\r\n" + CLOSE + b"\r\n", ErrorCode.NOT_FOUND),
        (b"GET /%00%ff HTTP/1.1\r\n" + CLOSE + b"\r\n", ErrorCode.NOT_FOUND),
        (b"BREW /here HTTP/1.1\r\n" + CLOSE + b"\r\n", ErrorCode.MALFORMED_REQUEST),
        (b"PURGE /here HTTP/1.1\r\n" + CLOSE + b"\r\n", ErrorCode.METHOD_NOT_ALLOWED),
        (b"CONNECT here:443 HTTP/1.1\r\n" + CLOSE + b"\r\n", ErrorCode.MALFORMED_REQUEST),
        (b"GET /here HTTP/1.1\r\n" + CLOSE + b"host: y\r\n\r\n", ErrorCode.MALFORMED_REQUEST),
        (
            b"PUT /here HTTP/1.1\r\n" + CLOSE + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n[]",
            ErrorCode.MALFORMED_REQUEST,
        ),
        (
            b"PUT /here HTTP/1.1\r\n" + CLOSE + b"transfer-encoding: chunked\r\n\r\nno chunk",
            ErrorCode.MALFORMED_REQUEST,
        ),
        (b"OPTIONS /here HTTP/1.1\r\n" + CLOSE + b"\r\n", ErrorCode.METHOD_NOT_ALLOWED),
        (b"TRACE /here HTTP/1.1\r\n" + CLOSE + b"\r\n", ErrorCode.METHOD_NOT_ALLOWED),
        (
            b"PUT /here HTTP/1.1\r\n" + CLOSE + b"content-length: 70000\r\n\r\n" + b"y" * 70_000,
            ErrorCode.PAYLOAD_TOO_LARGE,
        ),
        (
            b"PUT /here HTTP/1.1\r\n" + CLOSE + b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{\xff",
            ErrorCode.MALFORMED_REQUEST,
        ),
        (
            b"PUT /here HTTP/1.1\r\n"
            + CLOSE
            + b"content-type: application/json\r\ncontent-length: 9000\r\n\r\n"
            + b"[" * 9000,
            ErrorCode.MALFORMED_REQUEST,
        ),
        (
            b"PUT /here HTTP/1.1\r\n" + CLOSE + b"content-type: multipart/form-data\r\ncontent-length: 2\r\n\r\nab",
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ),
    ],
    ids=range(25),
)
async def test_what_is_no_request_for_us_is_answered_in_the_envelope(
    port: int, request_bytes: bytes, code: ErrorCode
) -> None:
    status, headers, body = await exchange(port, request_bytes)
    found = orjson.loads(body)
    assert (status, found["error"]["code"]) == (code.value.status, code.name)
    assert headers["content-type"] == "application/json"
    assert found["request_id"] == headers["x-request-id"] != ""
    if code is ErrorCode.METHOD_NOT_ALLOWED:
        assert headers["allow"] == "get, put"


async def test_a_body_that_breaks_after_its_answer_ends_the_connection_without_a_second_one(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /here HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.readuntil(b'"here"')).startswith(b"HTTP/1.1 200")
        writer.write(b"this is no chunk\r\n\r\n")
        assert await reader.read() == b""
    writer.close()


async def test_what_follows_a_request_and_is_none_is_answered_after_it(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /here HTTP/1.1\r\nhost: x\r\n\r\nno request\r\n\r\n")
    async with asyncio.timeout(10):
        head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.startswith(b'"here"HTTP/1.1 400 Bad Request\r\n')
    assert b"MALFORMED_REQUEST" in rest


async def test_what_cannot_be_parsed_is_in_the_log_under_the_id_that_its_sender_got(port: int) -> None:
    with captured_logs() as logs:
        _, headers, _ = await exchange(port, b"no request\r\n\r\n")
        line = logs.one("request_unreadable")
    assert (line["request_id"], line["code"], line["level"]) == (headers["x-request-id"], "MALFORMED_REQUEST", "info")
    assert [each["event"] for each in logs.lines if each["logger_name"].startswith("uvicorn")] == []


async def test_head_is_answered_without_a_body(port: int) -> None:
    status, headers, body = await exchange(port, b"HEAD /here HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert (status, headers["allow"], body) == (405, "get, put", b"")


async def test_a_request_to_change_the_protocol_is_answered_like_any_other(port: int) -> None:
    upgrade = b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
    status, _, body = await exchange(port, upgrade + b"sec-websocket-version: 13\r\nsec-websocket-key: eHh4\r\n\r\n")
    assert (status, orjson.loads(body)["error"]["code"]) == (404, "NOT_FOUND")


async def test_the_link_leads_to_where_the_page_is_published(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        error = (await client.get("/nowhere")).json()["error"]
    assert error["documentation_url"] == f"{PAGE}#not_found"


@pytest.mark.parametrize("accept", ["*/*", PROBLEM_JSON])
@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/nothing", ErrorCode.NOT_FOUND),
        ("OPTIONS", "/livez", ErrorCode.METHOD_NOT_ALLOWED),
        ("GET", "/broken", ErrorCode.INTERNAL_ERROR),
        ("PUT", "/livez", ErrorCode.FORBIDDEN),
    ],
)
async def test_the_management_port_has_the_same_two_forms(method: str, path: str, code: ErrorCode, accept: str) -> None:
    async def broken(_request: object) -> None:
        raise LookupError("SELECT secret FROM table")

    app = management_app(Health(), {}, token=lambda: None, routes=[Route("/broken", broken)])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        response = await client.request(method, path, headers={"Accept": accept})
    body = response.json()
    assert response.status_code == code.value.status
    assert (body if accept == PROBLEM_JSON else body["error"])["code"] == code.name
    assert body["request_id"] == response.headers["X-Request-ID"] != ""
    assert "SELECT" not in response.text
