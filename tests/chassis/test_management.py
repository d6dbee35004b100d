"""The management port shows to anyone inside; whatever changes something needs the token, and is written down."""

from collections.abc import AsyncIterator

import httpx
import pytest
from captured_logs import CapturedLogs, captured_logs
from chassis.logging import put_on_canonical_line
from chassis.process.health import Health
from chassis.process.management_app import management_app
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "t" * 64
CHANGING = ["POST", "PUT", "PATCH", "DELETE", "ANYTHING"]


class Port:
    """A management port with one endpoint that changes something."""

    def __init__(self) -> None:
        self.token: SecretStr | None = SecretStr(TOKEN)
        self.changes: list[str] = []
        self.app = management_app(
            Health(),
            {"service": "shop"},
            token=lambda: self.token,
            routes=[Route("/switch", self._switch, methods=["GET", *CHANGING])],
        )

    async def ask(
        self, method: str, path: str = "/switch", authorization: str | None = None, request_id: str = "req-1"
    ) -> httpx.Response:
        headers = {"X-Request-ID": request_id.encode()}
        if authorization is not None:
            headers["Authorization"] = authorization.encode()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await client.request(method, path, headers=headers)

    async def _switch(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse({"changes": self.changes})
        if request.method == "DELETE":
            raise RuntimeError("broken on purpose")
        self.changes.append(request.method)
        put_on_canonical_line(position="on")
        return JSONResponse({"changed": True})


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
async def logs() -> AsyncIterator[CapturedLogs]:
    with captured_logs() as logs:
        yield logs


@pytest.mark.parametrize("path", ["/livez", "/startupz", "/metrics", "/info", "/switch"])
async def test_reading_needs_no_token(port: Port, path: str) -> None:
    assert (await port.ask("GET", path)).status_code in {200, 503}


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}t", f"Bearer {TOKEN[:-1]}", "Bearer ключ"],
)
async def test_changing_without_the_token_is_refused_in_the_envelope_and_changes_nothing(
    port: Port, logs: CapturedLogs, method: str, authorization: str | None
) -> None:
    answer = await port.ask(method, authorization=authorization)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    body = answer.json()
    assert (body["error"]["code"], body["request_id"]) == ("UNAUTHENTICATED", "req-1")
    assert body["error"]["documentation_url"].endswith("#unauthenticated")
    assert port.changes == []
    assert logs.one("management_refused")["level"] == "warning"
    assert not logs.of("management_changed")


@pytest.mark.parametrize("authorization", [None, f"Bearer {TOKEN}", "Bearer "])
async def test_while_no_token_is_configured_nothing_can_be_changed(port: Port, authorization: str | None) -> None:
    port.token = None
    answer = await port.ask("PUT", authorization=authorization)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
    assert port.changes == []


async def test_a_path_that_does_not_exist_tells_nothing_without_the_token(port: Port) -> None:
    assert (await port.ask("POST", "/none")).status_code == 401
    assert (await port.ask("POST", "/none", f"Bearer {TOKEN}")).status_code == 404


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_a_change_is_made_with_the_token_and_written_down(port: Port, logs: CapturedLogs, scheme: str) -> None:
    answer = await port.ask("PUT", authorization=f"{scheme} {TOKEN}")
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (200, "req-1")
    assert port.changes == ["PUT"]
    line = logs.one("management_changed")
    assert (line["method"], line["path"], line["status"], line["position"]) == ("PUT", "/switch", 200, "on")
    assert (line["client"], line["request_id"]) == ("127.0.0.1", "req-1")
    assert line["by"].startswith("secret:")
    assert TOKEN not in logs.text


async def test_a_change_that_failed_is_written_down_too(port: Port, logs: CapturedLogs) -> None:
    answer = await port.ask("DELETE", authorization=f"Bearer {TOKEN}")
    assert answer.status_code == 500
    line = logs.one("management_changed")
    assert (line["status"], line["request_id"]) == (500, "req-1")
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "req-1"


async def test_whoever_only_looks_has_its_request_id_in_an_error_too(port: Port) -> None:
    answer = await port.ask("GET", "/none")
    assert (answer.status_code, answer.json()["request_id"]) == (404, "req-1")


async def test_a_request_id_that_may_be_a_secret_is_not_taken_over(port: Port) -> None:
    card = "4111111111111111"
    answer = await port.ask("PUT", authorization=f"Bearer {TOKEN}", request_id=card)
    assert answer.headers["X-Request-ID"] != card


async def test_a_replaced_token_is_valid_at_once_and_the_former_one_no_more(port: Port) -> None:
    port.token = SecretStr("n" * 64)
    assert (await port.ask("PUT", authorization=f"Bearer {TOKEN}")).status_code == 401
    assert (await port.ask("PUT", authorization=f"Bearer {'n' * 64}")).status_code == 200
