"""A client that does not take its answers costs bounded memory, for a bounded time, and no place of others."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from attacked_shop import PLACES, Shop
from chassis.process import http_protocol, http_writing
from raw_http import RawConnection, exchange
from waiting import eventually

LONG = b"GET /long HTTP/1.1\r\nHost: shop\r\n\r\n"
LAST = b"GET /open HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
SMALL = 4096  # bytes of a receive buffer, which the kernel doubles


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_writing, "WRITE_SECONDS", 0.5)


async def fill(stack: AsyncExitStack, port: int, request: bytes, *, connections: int) -> list[RawConnection]:
    """Connections that have sent a hundred times the request each and read nothing."""
    opened = [await stack.enter_async_context(RawConnection.to(port, receive_buffer=SMALL)) for _ in range(connections)]
    await asyncio.gather(*(one.flood(request, times=100) for one in opened))
    return opened


async def test_clients_that_never_read_take_no_place_of_others(shop: Shop) -> None:
    async with AsyncExitStack() as stack:
        await fill(stack, shop.public, LONG, connections=2 * PLACES)

        async def nothing_is_under_way() -> bool:
            return shop.app.load_shedder.in_flight == 0

        await eventually(nothing_is_under_way)
        answers = [(await exchange(shop.public, LAST))[0].status for _ in range(10)]
    assert answers == [200] * 10


async def is_empty(shop: Shop, port: int) -> None:
    async def nobody_is_connected() -> bool:
        return not shop.connections(port)

    await eventually(nobody_is_connected)


async def test_a_client_that_never_reads_is_let_go(port: int, shop: Shop, impatient: None) -> None:
    request = LONG if port == shop.public else b"GET /metrics HTTP/1.1\r\nHost: shop\r\n\r\n"
    async with AsyncExitStack() as stack:
        await fill(stack, port, request, connections=3)
        await is_empty(shop, port)


async def test_a_client_that_does_not_take_the_last_answer_of_a_connection_is_let_go(
    shop: Shop, impatient: None
) -> None:
    async with RawConnection.to(shop.public, receive_buffer=SMALL) as connection:
        await connection.send(2 * LONG + LAST)
        await is_empty(shop, shop.public)


async def test_a_slow_client_that_reads_now_and_then_gets_everything(shop: Shop, impatient: None) -> None:
    async with RawConnection.to(shop.public, receive_buffer=SMALL) as connection:
        await connection.send(20 * LONG + LAST)
        answers = await connection.answers(pause=0.05)
    assert [len(answer.body) for answer in answers] == [50_002] * 20 + [6]


async def test_a_connection_waits_with_its_next_request_until_the_answers_before_are_taken(shop: Shop) -> None:
    async with RawConnection.to(shop.public, receive_buffer=SMALL) as connection:
        await connection.send(30 * LONG)
        unsent = list(range(20))

        async def stands_still() -> bool:
            (one,) = shop.connections(shop.public)
            unsent.append(one.transport.get_write_buffer_size())
            return unsent[-1] > 0 and len(set(unsent[-20:])) == 1

        await eventually(stands_still)
        begun = shop.servers[shop.public].server_state.total_requests
    assert 0 < unsent[-1] <= http_writing.MAX_UNSENT_BYTES + 51_000  # and one answer
    assert begun < 10


async def test_what_is_pipelined_has_a_bound_and_all_of_it_is_answered(port: int, path: bytes, shop: Shop) -> None:
    request = b"GET " + path + b" HTTP/1.1\r\nHost: shop\r\n\r\n"
    last = request.replace(b"Host", b"Connection: close\r\nHost")
    async with RawConnection.to(port) as connection:
        await connection.send(1000 * request + last)
        most, answers = 0, []
        while (answer := await connection.answer()) is not None:
            answers.append(answer.status)
            most = max([most, *(len(one.pipeline) for one in shop.connections(port))])
    assert answers == [200] * 1001
    assert most <= http_protocol.MAX_PIPELINED + 4096 // len(request)
