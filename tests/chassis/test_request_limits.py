"""What a stranger may cost: a request that is too long, too slow or nobody's is ended, in the envelope."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from api_keys import PEPPERS, authenticator, caller
from chassis.app.api import ApiResources, Application, Caller, Router
from chassis.app.api.limits import network_of
from chassis.auth import Authenticator, Principal
from chassis.config.settings import DatabaseSettings, HttpSettings, RateLimitSettings, ServiceSettings
from chassis.errors import ApiError, ErrorCode
from chassis.pooling import Database
from chassis.process import http_protocol
from chassis.process.server import Server
from chassis.rate_limiting import RateLimiter
from holdfast_local.ports import free_port
from redis.asyncio import Redis

router = Router()


@router.get("/mine", access="orders:read")
async def mine(caller: Caller) -> str:
    return caller.id


@router.get("/read", access="orders:read")
async def read() -> str:
    return "read"


@router.get("/clean", access="shop:clean")
async def clean() -> str:
    return "cleaned"


@router.post("/body", public=True)
async def body(given: dict[str, str]) -> int:
    return len(given)


@router.post("/mine", access="orders:write")
async def add_to_mine(caller: Caller, given: dict[str, str]) -> str:
    return f"{caller.id}: {len(given)}"


class Settings(ServiceSettings):
    service_name = "shop"


type Serve = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def serve(database: Database, database_settings: DatabaseSettings, redis: Redis) -> AsyncIterator[Serve]:
    """Starts the application behind a real port; `client` then has its address."""
    opened: list[Any] = []

    async def start(*, trusted_proxies: tuple[str, ...] = (), places: int = 200, **limits: Any) -> httpx.AsyncClient:
        policy = {"unauthenticated": {"rate_per_second": 0.01, "burst": 3}} | limits
        settings = Settings(
            database=database_settings,
            auth=PEPPERS,
            rate_limit=RateLimitSettings.model_validate(policy),
            http=HttpSettings(default_deadline=6, max_body_bytes=1000, max_concurrent_requests=places),
        )

        app = Application(lambda: settings.http, routers=[router])
        limiter = RateLimiter(redis, lambda: settings.rate_limit, service="shop")
        known = await authenticator(database)
        app.resources = ApiResources(
            database=database, health=database, redis=redis, rate_limiter=limiter, authenticator=known, checks={}
        )
        port = free_port()
        server = Server(app, host="127.0.0.1", port=port, drain_timeout=1, trusted_proxies=trusted_proxies)
        running = server.running()
        await running.__aenter__()
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")
        opened.extend([client.aclose, lambda: running.__aexit__(None, None, None)])
        return client

    yield start
    for close in opened:
        await close()


async def code(answer: httpx.Response) -> str:
    found: str = answer.json()["error"]["code"]
    return found


async def test_a_url_and_headers_have_an_end(serve: Serve) -> None:
    client = await serve()
    long = await client.get(f"/mine?{'q' * 9000}")
    assert (long.status_code, await code(long)) == (414, "URI_TOO_LONG")
    many = await client.get("/mine", headers=[(f"x-{number}", "1") for number in range(101)])
    assert (many.status_code, await code(many)) == (431, "HEADERS_TOO_LARGE")
    assert (await client.get(f"/mine?{'q' * 8000}", headers=caller("acme"))).status_code == 200


async def exchange(client: httpx.AsyncClient, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What is answered to raw bytes, until the server ends the connection."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        return await asyncio.wait_for(reader.read(), timeout=10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


HEAD = b"POST /body HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"


LONG = b"GET /mine HTTP/1.1\r\nHost: shop\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 9990) for n in range(7))


@pytest.mark.parametrize(
    "pieces",
    [(LONG[:60_000], LONG[60_000:] + b"\r\n"), (LONG[:60_000], LONG[60_000:])],
    ids=["that ends before anybody looks at it", "that does not end"],
)
async def test_a_head_is_bounded_however_it_arrives(serve: Serve, pieces: tuple[bytes, ...]) -> None:
    answer = await exchange(await serve(), *pieces, pause=0.05)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"HEADERS_TOO_LARGE" in answer


async def test_each_head_of_a_connection_may_be_as_long_as_the_first(serve: Serve) -> None:
    request = LONG[:50_000] + b"\r\n\r\n"
    last = request.replace(b"Host: shop\r\n", b"Host: shop\r\nConnection: close\r\n")
    answer = await exchange(
        await serve(), request[:40_000], request[40_000:] + last[:40_000], last[40_000:], pause=0.05
    )
    assert answer.count(b"HTTP/1.1 401 ") == 2


async def test_a_body_that_does_not_arrive_within_the_deadline_is_408_and_the_connection_ends(serve: Serve) -> None:
    client = await serve()
    answer = await exchange(client, HEAD + b'X-Request-Timeout-Ms: 200\r\nContent-Length: 100\r\n\r\n{"a": ')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"REQUEST_TIMEOUT" in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"Content-Length: 1200\r\n\r\n" + b"x" * 1200],
        [HEAD + b"Content-Length: 99999999\r\n\r\n" + b"x" * 1200],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *4 * [b"12c\r\n" + b"x" * 300 + b"\r\n"]],
    ],
    ids=["as long as it says", "shorter than it says", "in chunks, one after the other"],
)
async def test_a_body_that_is_too_large_is_413_before_it_is_all_there(serve: Serve, pieces: list[bytes]) -> None:
    client = await serve()
    answer = await exchange(client, *pieces, pause=0.05)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


# Who calls is known before the body is read: strangers' bodies cost nothing.


async def unfinished(client: httpx.AsyncClient, **headers: str) -> bytes:
    """The status that answers an upload whose last byte never comes."""
    fields = {"X-Request-Timeout-Ms": "1000", "Content-Length": "1000", **headers}
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    head = HEAD.replace(b"/body", b"/mine") + "".join(f"{name}: {text}\r\n" for name, text in fields.items()).encode()
    writer.write(head + b"\r\n" + b"x" * 999)
    line = await asyncio.wait_for(reader.readline(), timeout=10)
    writer.close()
    return line[9:12]


async def test_strangers_who_do_not_finish_are_refused_at_once_and_hold_no_place(serve: Serve) -> None:
    client = await serve(places=1)
    assert [await unfinished(client) for _ in range(5)] == [b"401"] * 3 + [b"429"] * 2


async def test_callers_who_do_not_finish_have_the_places_of_a_class_at_most_and_only_until_their_deadline(
    serve: Serve,
) -> None:
    client = await serve(places=4)  # three of them are for what is not critical
    answers = await asyncio.gather(*(unfinished(client, **caller("acme")) for _ in range(6)))
    assert sorted(answers) == [b"408"] * 3 + [b"503"] * 3
    served = await client.post("/mine", json={"a": "b"}, headers=caller("acme"))
    assert (served.status_code, served.json()) == (200, "acme: 1")


@pytest.mark.parametrize(
    "pieces",
    [(), (b"GET /mine HTTP/1.1\r\n", b"Host: shop\r\n", b"X: 1\r\n"), (b"GET /mine HTTP/1.1\r\n" * 1,)],
    ids=["nothing", "a header at a time", "half a head"],
)
async def test_a_connection_whose_request_does_not_arrive_is_ended(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    client = await serve()
    assert await exchange(client, *pieces, pause=0.15) == b""


async def test_a_line_now_and_then_gives_a_head_no_more_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    client = await serve()
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(b"GET /mine HTTP/1.1\r\n")
    ended = asyncio.create_task(reader.read())
    async with asyncio.timeout(10):
        while not ended.done():
            writer.write(b"X: 1\r\n")
            await asyncio.wait([ended], timeout=0.05)
    with suppress(ConnectionError):
        assert await ended == b""
    writer.close()


async def test_the_rest_of_a_body_that_nobody_reads_has_an_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    client = await serve()
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(b"POST /none HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000000\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 404 Not Found\r\n"
    ended = asyncio.create_task(reader.read())
    async with asyncio.timeout(10):
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait([ended], timeout=0.05)
    with suppress(ConnectionError):
        assert b"NOT_FOUND" in await ended
    writer.close()


async def test_whoever_sends_the_rest_of_such_a_body_in_time_may_go_on(serve: Serve) -> None:
    client = await serve()
    head = b"POST /none HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nxx"
    last = b"GET /none HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
    assert (await exchange(client, head, b"xx" + last, pause=0.1)).count(b"HTTP/1.1 404 ") == 2


async def test_a_connection_that_was_served_may_wait_for_longer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.1)
    client = await serve()
    request = b"GET /mine HTTP/1.1\r\nHost: shop\r\n\r\n"
    answer = await exchange(client, request, request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), pause=0.3)
    assert answer.count(b"HTTP/1.1 401 ") == 2


async def test_a_scope_is_needed_and_the_answer_names_it(serve: Serve) -> None:
    client = await serve()
    assert (await client.get("/read", headers=caller("acme"))).status_code == 200
    refused = await client.get("/clean", headers=caller("acme"))
    assert (refused.status_code, await code(refused)) == (403, "FORBIDDEN")
    assert "shop:clean" in refused.json()["error"]["message"]
    assert "RateLimit" in refused.headers  # it was a call, and is taken of the caller's limit


# Whose address it is


async def statuses(client: httpx.AsyncClient, number: int, **headers: str) -> list[int]:
    return [(await client.get("/mine", headers=headers)).status_code for _ in range(number)]


async def test_whoever_shows_nothing_valid_is_limited_by_address_and_whoever_does_is_not(serve: Serve) -> None:
    client = await serve()
    assert await statuses(client, 5, Authorization="Bearer hf_nobody") == [401, 401, 401, 429, 429]
    assert await statuses(client, 3, **caller("acme")) == [200, 200, 200]


async def test_while_keys_cannot_be_looked_up_an_address_is_not_taken_for_a_stranger_s(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_self: Authenticator, _authorization: str | None) -> Principal:
        raise ApiError(ErrorCode.DEPENDENCY_UNAVAILABLE)

    client = await serve()
    monkeypatch.setattr(Authenticator, "authenticate", unknown)
    assert await statuses(client, 5, **caller("acme")) == [503] * 5


async def test_what_a_stranger_says_of_his_address_is_not_believed(serve: Serve) -> None:
    client = await serve()
    numbers = itertools.count()
    found = [(await statuses(client, 1, **{"X-Forwarded-For": f"192.0.2.{next(numbers)}"}))[0] for _ in range(5)]
    assert found == [401, 401, 401, 429, 429]


async def test_two_trusted_proxies_name_the_client_and_what_the_client_named_before_is_not_believed(
    serve: Serve,
) -> None:
    client = await serve(trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"))

    async def ask(stranger: str, *, claimed: str = "192.0.2.99") -> int:
        return (await statuses(client, 1, **{"X-Forwarded-For": f"{claimed}, {stranger}, 10.1.2.3"}))[0]

    assert [await ask("198.51.100.1", claimed=f"192.0.2.{n}") for n in range(4)] == [401, 401, 401, 429]
    assert await ask("198.51.100.2") == 401


async def test_an_ipv6_customer_has_one_limit_for_its_whole_network(serve: Serve) -> None:
    client = await serve(trusted_proxies=("127.0.0.0/8",))
    found = [(await statuses(client, 1, **{"X-Forwarded-For": f"2001:db8:1:2::{n}"}))[0] for n in range(4)]
    assert found == [401, 401, 401, 429]
    assert await statuses(client, 1, **{"X-Forwarded-For": "2001:db8:1:3::1"}) == [401]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", "unknown"),
        ("' OR 1=1", "unknown"),
    ],
)
def test_what_is_limited_together(host: str, network: str) -> None:
    assert network_of(host) == network
