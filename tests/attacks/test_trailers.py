"""Fields after a chunked body are no headers, and a stranger cannot make a process keep them."""

import psutil
import pytest
from api_keys import caller
from attacked_shop import MANAGEMENT_TOKEN, Shop
from raw_http import RawConnection, exchange

LAST = b"GET /none HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
MEGABYTE = 1_048_576


def chunked(path: bytes, *, head: bytes = b"", trailer: bytes = b"") -> bytes:
    fields = b"Host: shop\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" + head
    return b"POST " + path + b" HTTP/1.1\r\n" + fields + b'\r\na\r\n{"a": "b"}\r\n0\r\n' + trailer + b"\r\n"


def field(name: str, value: str) -> bytes:
    return f"{name}: {value}\r\n".encode()


async def test_a_trailer_is_not_a_header(shop: Shop) -> None:
    key = field("Authorization", caller("acme")["Authorization"])
    right, wrong, _ = await exchange(shop.public, chunked(b"/mine", head=key), chunked(b"/mine", trailer=key), LAST)
    assert (right.status, right.body) == (200, b'"acme: 1"')
    assert wrong.status == 401


async def test_a_trailer_does_not_say_where_a_request_comes_from(shop: Shop) -> None:
    burst = 30
    requests = [
        chunked(b"/mine", head=field("X-Forwarded-For", "192.0.2.7"), trailer=field("X-Forwarded-For", f"192.0.2.{n}"))
        for n in range(100, 100 + burst + 5)
    ]
    statuses = []
    for request in requests:
        refused, _ = await exchange(shop.public, request, LAST)
        statuses.append(refused.status)
    assert statuses.count(429) >= 4  # one a second comes back


async def test_a_trailer_changes_nothing_on_the_management_port(shop: Shop) -> None:
    body = b'{"logger": "shop", "level": "DEBUG", "seconds": 60}'
    request = (
        b"PUT /log-levels HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%s\r\n0\r\n" % (len(body), body)
        + field("Authorization", f"Bearer {MANAGEMENT_TOKEN}")
        + b"\r\n"
    )
    refused, _ = await exchange(shop.management, request, LAST.replace(b"shop", b"localhost"))
    assert refused.status == 401


async def test_a_few_trailers_are_dropped_and_the_connection_goes_on(port: int, path: bytes) -> None:
    request = chunked(path, trailer=field("Digest", "1") + field("Expires", "never"))
    answers = await exchange(port, request, LAST)
    assert [answer.status for answer in answers[1:]] == [404]


@pytest.mark.parametrize(
    "endless", [b"a:b\r\n", b"a: " + b"b" * 997 + b"\r\n", b"b" * 1000], ids=["many", "long ones", "one"]
)
async def test_trailers_without_end_are_cut_off_before_they_cost_anything(
    port: int, path: bytes, endless: bytes
) -> None:
    memory = psutil.Process().memory_info().rss
    async with RawConnection.to(port) as connection:
        await connection.send(chunked(path)[:-2] + b"t: ")
        sent = await connection.flood(endless * (65_536 // len(endless)), times=320)
    assert sent is not None
    assert sent < 16 * MEGABYTE  # most of it lies in the sockets' buffers
    assert psutil.Process().memory_info().rss - memory < 32 * MEGABYTE


async def test_extensions_of_a_chunk_without_end_are_cut_off(port: int, path: bytes) -> None:
    async with RawConnection.to(port) as connection:
        await connection.send(chunked(path)[: -len(b"0\r\n\r\n")] + b"1;")
        assert await connection.flood(b"x" * 65_536, times=320) is not None
