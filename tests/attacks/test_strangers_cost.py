"""What an API answers without a key is limited by address, and a long Accept header makes no answer dear."""

import time
from typing import TYPE_CHECKING

import pytest
from api_keys import key_of
from chassis.config.settings import RateLimitSettings
from chassis.errors.answers import wants_problem
from raw_http import RawConnection

if TYPE_CHECKING:
    from attacked_shop import Shop

BURST = RateLimitSettings().unauthenticated.burst
REQUESTS = [
    pytest.param("GET /nowhere", 404, id="a path that no route has"),
    pytest.param("DELETE /open", 405, id="a method that a route has not"),
    pytest.param("GET /openapi.json", 200, id="the document"),
    pytest.param("POST /openapi.json", 405, id="a method that the document has not"),
    pytest.param("OPTIONS /mine", 405, id="OPTIONS"),
    pytest.param("GET /docs", 404, id="the page that the framework would have"),
    pytest.param("GET /mine", 401, id="no key"),
]


def asked(request: str, address: str, *headers: str) -> bytes:
    head = [f"{request} HTTP/1.1", "Host: shop", f"X-Forwarded-For: {address}", *headers, "", ""]
    return "\r\n".join(head).encode()


@pytest.mark.parametrize(("request_line", "status"), REQUESTS)
async def test_what_needs_no_key_is_limited_by_address(shop: "Shop", request_line: str, status: int) -> None:
    async with RawConnection.to(shop.public) as connection:

        async def statuses(request: str, address: str, *headers: str, times: int = 1) -> list[int]:
            found = []
            for _ in range(times):
                await connection.send(asked(request, address, *headers))
                answer = await connection.answer()
                assert answer
                found.append(answer.status)
            return found

        found = await statuses(request_line, "192.0.2.1", times=BURST + 20)
        assert found[:BURST] == [status] * BURST
        assert set(found) == {status, 429}
        assert await statuses(request_line, "192.0.2.2") == [status]
        key = f"Authorization: Bearer {key_of('shop')}"
        assert await statuses("GET /mine", "192.0.2.1", key) == [200]


PIECES = ["a,", "*/*,", "application/problem+json;q=0.1,", ";q=1", '"', '"a",', "a;b;c,"]


def seconds_for(accept: list[str]) -> float:
    """Processor time, the least of some runs."""
    least = float("inf")
    for _ in range(20):
        started = time.thread_time()
        wants_problem(accept)
        least = min(least, time.thread_time() - started)
    return least


@pytest.mark.parametrize("piece", PIECES)
def test_no_more_than_two_kilobytes_of_accept_are_read(piece: str) -> None:
    short, long = (piece * 2048)[:2048], (piece * 60_000)[:60_000]
    assert seconds_for([long]) < 4 * seconds_for([short])
    assert seconds_for([piece * 20] * 90) < 4 * seconds_for([short])


def test_what_a_browser_sends_is_read_to_its_end() -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
    assert wants_problem([browser, "application/problem+json"])
    assert not wants_problem([browser, "application/problem+json;q=0.5"])
    assert not wants_problem(["x" * 2048, "application/problem+json"])
