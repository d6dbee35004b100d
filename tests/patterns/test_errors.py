"""One envelope on every error, whoever raised it; everything that is wrong at once; nothing inside shown outside."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any

import httpx
import pytest
from api_keys import PEPPERS, authenticator, key_of
from captured_logs import CapturedLogs, captured_logs
from chassis.app.api import ApiResources, Application, Caller, Router
from chassis.config.settings import DatabaseSettings, HttpSettings, RateLimitSettings, ServiceSettings
from chassis.errors import (
    ApiError,
    BreakerOpen,
    DependencyFailed,
    DependencyTimeout,
    ErrorCode,
    InvalidSignature,
    PoolExhausted,
)
from chassis.pooling import Database
from chassis.rate_limiting import RateLimiter
from fastapi import FastAPI, Header
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis

KEY = key_of("acme")
CARD = "4111111111111111"
PROBLEM = {"accept": "application/problem+json"}

RAISED: Mapping[str, Exception] = {
    "absent": ApiError(ErrorCode.NOT_FOUND),
    "full": PoolExhausted("requests", 1.0),
    "open": BreakerOpen("payments", retry_after=12.3),
    "late": DependencyTimeout("payments", 2),
    "broken": DependencyFailed("payments", "answered 500"),
    "forged": InvalidSignature("no signature"),
    "lost": LookupError(f"SELECT * FROM cards WHERE number = '{CARD}'"),
}

router = Router()


class Line(BaseModel):
    product: str = Field(max_length=5)
    quantity: int = Field(ge=1)


class Purchase(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lines: list[Line]
    note: str = Field("", max_length=3)
    password: str = Field("12345678", min_length=8)


@router.post("/purchases/{purchase_id}", public=True)
async def buy(purchase_id: int, body: Purchase, x_level: Annotated[int, Header()] = 0) -> dict[str, int]:
    return {"id": purchase_id, "lines": len(body.lines), "level": x_level}


@router.get("/raise/{name}", public=True)
async def fail(name: str) -> None:
    raise RAISED[name]


@router.get("/mine", access="orders:read")
async def mine(caller: Caller) -> str:
    return caller.id


@router.get("/limited", access="orders:read", cost=2)
async def limited() -> str:
    return "served"


@router.get("/wrong-answer", public=True, response_model=Purchase)
async def wrong_answer() -> Any:
    return {"lines": "none"}


class Gate:
    """Requests to /gate wait here until it opens."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.opens = asyncio.Event()


@router.get("/gate", public=True)
async def gate_route() -> str:
    gate = GATES[-1]
    gate.arrived.set()
    await gate.opens.wait()
    return "through"


GATES: list[Gate] = []


class Settings(ServiceSettings):
    service_name = "shop"


@pytest.fixture
async def app(database: Database, database_settings: DatabaseSettings, redis: Redis) -> FastAPI:
    limits = RateLimitSettings(rate_per_second=0.5, burst=2)

    settings = Settings(
        database=database_settings,
        http=HttpSettings(max_body_bytes=2000, max_concurrent_requests=1),
        rate_limit=limits,
        auth=PEPPERS,
    )
    app = Application(lambda: settings.http, routers=[router])
    limiter = RateLimiter(redis, lambda: limits, service="shop")
    app.resources = ApiResources(
        database=database,
        health=database,
        redis=redis,
        rate_limiter=limiter,
        authenticator=await authenticator(database),
        checks={"database": database.ping},
    )
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        yield client


@pytest.fixture
def logs() -> Iterator[CapturedLogs]:
    with captured_logs() as found:
        yield found


def details(response: httpx.Response) -> dict[str, dict[str, str]]:
    return {detail["field"]: detail for detail in response.json()["error"]["details"]}


type Request = tuple[str, str, dict[str, Any]]
EVERY_ERROR: Mapping[ErrorCode, Request] = {
    ErrorCode.MALFORMED_REQUEST: (
        "POST",
        "/purchases/1",
        {"content": b"{", "headers": {"content-type": "application/json"}},
    ),
    ErrorCode.UNAUTHENTICATED: ("GET", "/mine", {}),
    ErrorCode.SIGNATURE_INVALID: ("GET", "/raise/forged", {}),
    ErrorCode.NOT_FOUND: ("GET", "/nothing/here", {}),
    ErrorCode.METHOD_NOT_ALLOWED: ("DELETE", "/mine", {}),
    ErrorCode.PAYLOAD_TOO_LARGE: ("POST", "/purchases/1", {"json": {"note": "x" * 2000}}),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (
        "POST",
        "/purchases/1",
        {"content": b"<lines/>", "headers": {"content-type": "text/xml"}},
    ),
    ErrorCode.VALIDATION_FAILED: ("POST", "/purchases/one", {"json": {}}),
    ErrorCode.INTERNAL_ERROR: ("GET", "/raise/lost", {}),
    ErrorCode.DEPENDENCY_FAILED: ("GET", "/raise/broken", {}),
    ErrorCode.DEPENDENCY_UNAVAILABLE: ("GET", "/raise/open", {}),
    ErrorCode.OVERLOADED: ("GET", "/raise/full", {}),
    ErrorCode.DEPENDENCY_TIMEOUT: ("GET", "/raise/late", {}),
}


@pytest.mark.parametrize("code", EVERY_ERROR, ids=lambda code: code.name)
async def test_every_error_is_answered_in_the_envelope(client: httpx.AsyncClient, code: ErrorCode) -> None:
    method, path, options = EVERY_ERROR[code]
    response = await client.request(method, path, **options)
    assert response.status_code == code.value.status
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error", "request_id"}
    assert body["error"].keys() == {"code", "retryable", "message", "details", "documentation_url"}
    assert (body["error"]["code"], body["error"]["retryable"]) == (code.name, code.value.retryable)
    assert ("Retry-After" in response.headers) == code.value.retryable
    assert body["error"]["documentation_url"].endswith(f"/docs/reference/errors.md#{code.name.lower()}")
    assert body["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize("code", EVERY_ERROR, ids=lambda code: code.name)
async def test_accept_turns_it_into_a_problem_of_rfc_9457(client: httpx.AsyncClient, code: ErrorCode) -> None:
    method, path, options = EVERY_ERROR[code]
    response = await client.request(method, path, **{**options, "headers": {**options.get("headers", {}), **PROBLEM}})
    assert response.status_code == code.value.status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body.keys() == {"type", "title", "status", "detail", "code", "retryable", "errors", "request_id"}
    assert (body["status"], body["code"]) == (code.value.status, code.name)
    assert body["type"].endswith(f"#{code.name.lower()}")
    assert body["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/html, Application/Problem+JSON;q=0.5", "application/problem+json"),
        ("application/problem+json;q=0", "application/json"),
        ("application/problem+jsonx", "application/json"),
    ],
)
async def test_the_form_follows_what_accept_says(client: httpx.AsyncClient, accept: str, expected: str) -> None:
    response = await client.get("/nothing", headers={"accept": accept})
    assert response.headers["content-type"] == expected


async def test_all_that_is_wrong_is_told_at_once_with_what_was_received(client: httpx.AsyncClient) -> None:
    lines = [{"product": "too long", "quantity": 0}, {"quantity": "many"}]
    response = await client.post(
        "/purchases/one", json={"lines": lines, "extra": 1, "note": "long"}, headers={"x-level": "high"}
    )
    assert response.status_code == 422
    found = details(response)
    assert {field: detail.get("received") for field, detail in found.items()} == {
        "purchase_id": "one",
        "x-level": None,  # headers carry credentials: none is shown
        "lines.0.product": "too long",
        "lines.0.quantity": "0",
        "lines.1.product": None,
        "lines.1.quantity": "many",
        "extra": None,  # a name we do not know may be a password's, misspelt
        "note": "long",
    }
    assert found["lines.0.quantity"]["message"] == "Input should be greater than or equal to 1"


async def test_a_sensitive_field_is_never_shown_back(client: httpx.AsyncClient) -> None:
    body = {"lines": [], "password": "hunter2", "apiKey": "hunter2", "card": {"cvc": "hunter2"}}
    response = await client.post("/purchases/1", json=body)
    assert set(details(response)) == {"password", "apiKey", "card"}
    assert "hunter2" not in response.text


async def test_the_framework_by_itself_shows_a_password_back() -> None:
    """The version that goes wrong."""
    plain = FastAPI()
    plain.post("/purchases/{purchase_id}")(buy)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(plain), base_url="http://plain") as client:
        response = await client.post("/purchases/1", json={"lines": [], "password": "hunter2"})
    assert response.json()["detail"][0]["input"] == "hunter2"


async def test_a_card_number_is_not_shown_back_from_any_field(client: httpx.AsyncClient) -> None:
    response = await client.post("/purchases/1", json={"lines": [], "note": f"card {CARD}", CARD: 1})
    assert response.status_code == 422
    assert CARD not in response.text


async def test_half_a_surrogate_pair_is_an_error_of_the_caller_s(client: httpx.AsyncClient) -> None:
    content = b'{"lines": [{"product": "\\ud800", "quantity": 1}]}'
    response = await client.post("/purchases/1", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422


async def test_the_answer_is_no_multiple_of_the_request(client: httpx.AsyncClient) -> None:
    response = await client.post("/purchases/1", json={f"f{n}": "" for n in range(120)} | {"note": "n" * 300})
    assert response.status_code == 422
    assert len(details(response)) == 100
    assert all(len(detail.get("received", "")) <= 100 for detail in details(response).values())


async def test_a_body_is_cut_off_even_when_nothing_says_how_long_it_is(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 500
        pytest.fail("it was read to the end")

    response = await client.post("/purchases/1", content=endless(), headers={"content-type": "application/json"})
    assert response.status_code == 413


async def test_a_body_is_needed_before_its_type_matters(client: httpx.AsyncClient) -> None:
    response = await client.post("/purchases/1")
    assert response.json()["error"]["code"] == "VALIDATION_FAILED"
    for kind in ("application/json; charset=utf-8", "application/vnd.api+json"):
        answer = await client.post("/purchases/1", content=b'{"lines": []}', headers={"content-type": kind})
        assert answer.status_code == 200


async def test_what_nobody_expected_is_opaque_outside_and_logged_once_inside(
    client: httpx.AsyncClient, logs: CapturedLogs
) -> None:
    response = await client.get("/raise/lost")
    assert response.status_code == 500
    assert response.json()["error"]["message"] == ErrorCode.INTERNAL_ERROR.value.message
    assert "SELECT" not in response.text
    assert "LookupError" not in response.text
    (line,) = [line for line in logs.lines if "exception" in line]
    assert (line["event"], line["level"]) == ("request_failed", "error")
    assert line["request_id"] == response.headers["X-Request-ID"]
    assert "LookupError: SELECT * FROM cards WHERE number = '[redacted]'" in line["exception"]
    assert logs.one("request_completed")["status"] == 500


async def test_an_answer_that_breaks_its_own_contract_is_an_opaque_500(
    client: httpx.AsyncClient, logs: CapturedLogs
) -> None:
    response = await client.get("/wrong-answer")
    assert response.status_code == 500
    assert response.json()["error"]["details"] == []
    assert logs.one("request_failed")


@pytest.mark.parametrize("code", [code for code in EVERY_ERROR if code.value.status < 500], ids=lambda code: code.name)
async def test_an_error_of_the_caller_s_is_no_error_of_ours(
    client: httpx.AsyncClient, logs: CapturedLogs, code: ErrorCode
) -> None:
    method, path, options = EVERY_ERROR[code]
    await client.request(method, path, **options)
    assert {line["level"] for line in logs.lines} == {"info"}
    line = logs.one("request_completed")
    assert (line["status"], line["error_code"]) == (code.value.status, code.name)


@pytest.mark.parametrize("name", ["full", "open", "late", "broken"])
async def test_a_degraded_answer_is_a_warning_that_names_the_dependency(
    client: httpx.AsyncClient, logs: CapturedLogs, name: str
) -> None:
    response = await client.get(f"/raise/{name}")
    line = logs.one("request_not_served")
    assert line["level"] == "warning"
    assert "exception" not in line
    if name != "full":
        assert response.json()["error"]["message"].startswith("payments: ")


async def test_there_is_one_canonical_line_per_request(client: httpx.AsyncClient, logs: CapturedLogs) -> None:
    await client.post("/purchases/7", json={"lines": []}, headers={"X-Request-ID": "req-1"})
    line = logs.one("request_completed")
    assert line["method"] == "POST"
    assert line["route"] == "/purchases/{purchase_id}"
    assert (line["status"], line["request_id"], line["level"]) == (200, "req-1", "info")
    assert line["duration_ms"] >= 0


async def test_a_plain_request_id_is_taken_over_and_any_other_replaced(client: httpx.AsyncClient) -> None:
    for plain in ("abc-123", "A_b.9", "x" * 128):
        assert (await client.get("/mine", headers={"X-Request-ID": plain})).headers["X-Request-ID"] == plain
    for strange in ("", "two words", "x" * 129, "a\tb", "<script>"):
        given = (await client.get("/mine", headers={"X-Request-ID": strange})).headers["X-Request-ID"]
        assert given != strange
        assert len(given) == 32


@pytest.mark.parametrize(("name", "seconds"), [("open", "13"), ("full", "1")])
async def test_retry_after_says_when_to_come_back_in_whole_seconds(
    client: httpx.AsyncClient, name: str, seconds: str
) -> None:
    assert (await client.get(f"/raise/{name}")).headers["Retry-After"] == seconds


async def test_a_spent_limit_is_answered_429_with_when_to_come_back(client: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    assert (await client.get("/limited", headers=headers)).status_code == 200
    response = await client.get("/limited", headers=headers)
    assert response.json()["error"]["code"] == "RATE_LIMITED"
    assert 1 <= int(response.headers["Retry-After"]) <= 4
    assert response.headers["RateLimit"].startswith('"default";r=0')


async def test_more_requests_at_once_than_a_process_holds_are_refused_at_once(client: httpx.AsyncClient) -> None:
    gate = Gate()
    GATES.append(gate)
    first = asyncio.create_task(client.get("/gate"))
    await gate.arrived.wait()
    response = await client.get("/mine")
    assert response.json()["error"]["code"] == "OVERLOADED"
    assert response.headers["Retry-After"] == "1"
    gate.opens.set()
    assert (await first).status_code == 200


async def test_the_framework_s_own_headers_are_kept(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/mine")).headers["Allow"] == "GET"
    assert (await client.get("/mine")).headers["WWW-Authenticate"] == "Bearer"


async def test_a_path_that_is_almost_right_is_not_redirected(client: httpx.AsyncClient) -> None:
    response = await client.get("/mine/", headers={"host": "evil.example"})
    assert response.status_code == 404
    assert "location" not in response.headers


def test_a_code_is_a_status_a_sentence_and_whether_to_retry() -> None:
    for code in ErrorCode:
        assert code.name == code.name.upper()
        assert 400 <= code.value.status <= 504
        assert code.value.message.endswith(".")
        assert not (code.value.retryable and code.value.status in {400, 401, 403, 404, 405, 413, 415, 422})
