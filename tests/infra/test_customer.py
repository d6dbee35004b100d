"""The simulated customer's command, against an API that answers as it is told."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from holdfast_local.ports import free_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from waiting import eventually

KEY = "key-of-a-customer"
CUSTOMER = Path(sys.executable).with_name("customer")

type Json = dict[str, Any]


def refused(status: int, code: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": "as told", "details": []}}, status, headers)


@dataclass
class Shop:
    """Orders, notifications and the customer's endpoint in one. `say` may answer a request first, by its number."""

    url: str
    say: Callable[[Request, int], Response | None] = lambda _request, _number: None
    final: str = "confirmed"
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, idempotency key
    bodies: dict[str, Json] = field(default_factory=dict)  # by idempotency key
    looked_at: set[str] = field(default_factory=set)

    async def answer(self, request: Request) -> Response:
        key, path = request.headers["idempotency-key"], request.url.path
        self.requests.append((request.method, path, key))
        if told := self.say(request, len(self.requests)):
            return told
        match request.method, path:
            case "POST", "/v1/orders":
                assert request.headers["authorization"] == f"Bearer {KEY}"
                self.bodies[key] = await request.json()
                return JSONResponse({"id": key, "status": "pending"}, 201)
            case "GET", "/v1/webhook-endpoints":
                return JSONResponse({"items": []})
            case "POST", "/v1/webhook-endpoints":
                return JSONResponse({"id": "e", "secret": "whsec_c2VjcmV0", **await request.json()}, 201)
            case "PUT", _:
                assert "authorization" not in request.headers
                self.bodies[path] = await request.json()
                return JSONResponse({})
        order_id = path.rpartition("/")[2]
        is_first_look = order_id not in self.looked_at
        self.looked_at.add(order_id)
        return JSONResponse(
            {"id": order_id, "status": "pending" if is_first_look else self.final, "reason": "a reason"}
        )

    async def has_answered(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        except OSError:
            return False
        writer.close()
        return True

    def sent(self, method: str, path: str) -> list[str]:
        """The idempotency keys of such requests."""
        return [key for m, p, key in self.requests if (m, p) == (method, path)]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    port = free_port()
    shop = Shop(f"http://127.0.0.1:{port}")
    app = Starlette(routes=[Route("/{path:path}", shop.answer, methods=["GET", "POST", "PUT"])])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    task = asyncio.create_task(server.serve())
    await eventually(shop.has_answered)
    yield shop
    server.should_exit = True
    await task


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    return path


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str


async def buy(shop: Shop, key_file: Path, *options: str) -> Ended:
    command = [str(CUSTOMER), "--orders-url", shop.url, "--api-key-file", str(key_file), *options]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode())


async def test_orders_are_placed_and_waited_for(shop: Shop, key_file: Path) -> None:
    ended = await buy(shop, key_file, "--orders", "4")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("4 of 4 orders confirmed")
    assert len(set(shop.sent("POST", "/v1/orders"))) == 4
    assert all(shop.sent("GET", f"/v1/orders/{order_id}") for order_id in shop.bodies)


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, "RATE_LIMITED"), (503, "OVERLOADED"), (500, "INTERNAL"), (409, "IDEMPOTENCY_KEY_IN_PROGRESS")],
)
async def test_a_request_is_repeated_under_its_key_until_it_is_answered(
    shop: Shop, key_file: Path, status: int, code: str
) -> None:
    shop.say = lambda _, number: refused(status, code, {"Retry-After": "0"}) if number <= 2 else None
    assert (await buy(shop, key_file, "--orders", "1")).code == 0
    keys = shop.sent("POST", "/v1/orders")
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_an_order_that_is_cancelled_is_a_failure_with_its_reason(shop: Shop, key_file: Path) -> None:
    shop.final = "cancelled"
    ended = await buy(shop, key_file, "--orders", "1")
    (order_id,) = shop.bodies
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr == (f"customer: 1 of 1 orders were not confirmed in 60 s:\n  {order_id}  cancelled  a reason\n")


async def test_an_order_that_stays_pending_is_a_failure_when_time_is_up(shop: Shop, key_file: Path) -> None:
    shop.final = "pending"
    ended = await buy(shop, key_file, "--orders", "2", "--timeout", "1")
    assert ended.code == 1
    assert "2 of 2 orders were not confirmed in 1 s:" in ended.stderr


@pytest.mark.parametrize(
    ("status", "code"), [(401, "UNAUTHENTICATED"), (422, "UNKNOWN_PRODUCT"), (409, "STATE_CONFLICT")]
)
async def test_a_refusal_is_not_repeated(shop: Shop, key_file: Path, status: int, code: str) -> None:
    shop.say = lambda _request, _number: refused(status, code)
    ended = await buy(shop, key_file)
    assert ended.code == 1
    assert ended.stderr == f"customer: POST {shop.url}/v1/orders was answered {status} {code}: as told\n"
    assert len(shop.requests) == 1


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"error": "odd"}'])
async def test_an_answer_from_something_else_is_one_line(shop: Shop, key_file: Path, content: bytes) -> None:
    shop.say = lambda _request, _number: Response(content)
    ended = await buy(shop, key_file, "--timeout", "1")
    assert ended.code == 1
    assert "was answered 200 with something else" in ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_nobody_answering_is_one_line_when_time_is_up(key_file: Path) -> None:
    ended = await buy(Shop(f"http://127.0.0.1:{free_port()}"), key_file, "--timeout", "1")
    assert ended.code == 1
    assert "was answered not at all: [Errno" in ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_webhooks_go_to_the_simulated_endpoint_which_gets_what_verifies_them(shop: Shop, key_file: Path) -> None:
    options = ["--orders", "1", "--notifications-url", shop.url, "--webhook-url", shop.url]
    assert (await buy(shop, key_file, *options)).code == 0
    assert shop.bodies["/secrets/customer"] == {"secrets": ["whsec_c2VjcmV0"]}


async def test_an_endpoint_that_is_there_gets_a_new_secret(shop: Shop, key_file: Path) -> None:
    def say(request: Request, _number: int) -> Response | None:
        if request.url.path.endswith("/rotate-secret"):
            return JSONResponse({"secret": "whsec_bmV3"})
        is_list = (request.method, request.url.path) == ("GET", "/v1/webhook-endpoints")
        return JSONResponse({"items": [{"id": "e", "url": f"{shop.url}/webhooks/customer"}]}) if is_list else None

    shop.say = say
    options = ["--orders", "1", "--notifications-url", shop.url, "--webhook-url", f"{shop.url}/"]
    assert (await buy(shop, key_file, *options)).code == 0
    assert not shop.sent("POST", "/v1/webhook-endpoints")
    assert shop.bodies["/secrets/customer"] == {"secrets": ["whsec_bmV3"]}


async def test_wrong_calls_end_with_one_line_that_shows_no_key(shop: Shop, key_file: Path) -> None:
    two_lines = key_file.with_name("two-lines")
    two_lines.write_text("first\nsecond")
    for path, message in (
        (two_lines, f"customer: {two_lines} does not hold a key\n"),
        (Path("/nowhere"), "customer: cannot read /nowhere: No such file or directory\n"),
    ):
        assert await buy(shop, path) == Ended(1, "", message)
    for options in (["--orders", "0"], ["--timeout", "inf"], ["--webhook-url", "ftp://x"], ["--webhook-url", shop.url]):
        ended = await buy(shop, key_file, *options)
        assert (ended.code, "Traceback" in ended.stderr) == (2, False)
    assert not shop.requests
