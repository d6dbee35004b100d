"""An offer to speak another protocol is not taken up, and the request that makes it is answered as it is."""

import pytest
from api_keys import caller
from attacked_shop import Shop
from raw_http import exchange

KEY = f"Authorization: {caller('acme')['Authorization']}\r\n".encode()
HIDDEN = b"GET /open HTTP/1.1\r\nHost: shop\r\n\r\n"
LAST = b"GET /none HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
WEBSOCKET = b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
OFFERS = pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["h2c", "websocket"])


def post(path: bytes, body: bytes, *fields: bytes, in_chunks: bool = False) -> bytes:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n" + b"".join(fields)
    if in_chunks:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@OFFERS
@pytest.mark.parametrize("in_chunks", [False, True])
async def test_the_body_of_a_request_that_offers_another_protocol_is_not_the_next_request(
    port: int, path: bytes, offer: bytes, *, in_chunks: bool
) -> None:
    answers = await exchange(port, post(path, HIDDEN, offer, in_chunks=in_chunks), LAST)
    assert len(answers) == 2
    assert answers[1].status == 404


@OFFERS
@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_client_that_offers_another_protocol_gets_its_answer_and_what_it_sent_behind_is_kept(
    shop: Shop, offer: bytes, *, in_chunks: bool
) -> None:
    request = post(b"/mine", b'{"a": "b"}', KEY, offer, in_chunks=in_chunks)
    answers = await exchange(shop.public, request + request + HIDDEN.replace(b"Host", offer + b"Host") + LAST)
    assert [answer.status for answer in answers] == [200, 200, 200, 404]
    assert answers[0].body == answers[1].body == b'"acme: 1"'


@pytest.mark.parametrize("target", [b"/open", b"shop:80"])
async def test_a_tunnel_is_refused_and_what_follows_is_no_request(port: int, target: bytes) -> None:
    (answer,) = await exchange(port, b"CONNECT " + target + b" HTTP/1.1\r\nHost: shop\r\n\r\n" + HIDDEN)
    assert answer.status == 400
