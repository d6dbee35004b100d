"""However the network cuts a client's bytes, the answers are the same as to all of them in one piece."""

import asyncio
import re
from typing import Any

import pytest
import uvicorn
from chassis.process.http_protocol import MAX_HEAD_BYTES, HttpProtocol
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

LAST = b"GET /last HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: shop\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
OFFER = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: shop\r\n\r\n"

CASES = {
    "two requests": b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n" + POST + b"Content-Length: 3\r\n\r\nabc" + LAST,
    "chunks": CHUNKED + b"\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n" + LAST,
    "trailers": CHUNKED + b"\r\n3\r\nabc\r\n0\r\nAuthorization: Bearer a\r\nHost: other\r\n\r\n" + LAST,
    "many trailers": CHUNKED + b"\r\n0\r\n" + 101 * b"a:b\r\n" + b"\r\n" + LAST,
    "an offer": POST + OFFER + b"Content-Length: 47\r\n\r\n" + HIDDEN.ljust(47) + LAST,
    "an offer with chunks": CHUNKED + OFFER + b"\r\n27\r\n" + HIDDEN.ljust(39) + b"\r\n0\r\n\r\n" + LAST,
    "offers without a body": 3 * (b"GET /a HTTP/1.1\r\nHost: shop\r\n" + OFFER + b"\r\n") + LAST,
    "an offer and the end": POST
    + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
    + HIDDEN,
    "a tunnel": b"CONNECT a:1 HTTP/1.1\r\nHost: shop\r\n\r\n" + HIDDEN,
    "HTTP/0.9": b"GET /\r\n\r\n" + HIDDEN,
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: shop\r\n\r\n" + HIDDEN,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.0": b"GET /a HTTP/1.0\r\n\r\n" + HIDDEN,
    "two hosts": b"GET /a HTTP/1.1\r\nHost: shop\r\nHost: other\r\n\r\n" + HIDDEN,
    "two keys": HIDDEN + POST + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n" + HIDDEN,
    "two lengths": HIDDEN + POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab" + HIDDEN,
    "a length and chunks": CHUNKED + b"Content-Length: 1\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a wrong chunk": HIDDEN + CHUNKED + b"\r\n3\r\nabcde\r\n" + HIDDEN,
    "white space before and after": b"\r\n\r\n" + POST + b"Content-Length:   2  \r\n\r\nab\r\n" + LAST,
    "many headers": b"GET /a HTTP/1.1\r\nHost: shop\r\n" + 100 * b"a: b\r\n" + b"\r\n" + HIDDEN,
    "a long target": b"GET /" + 8192 * b"a" + b" HTTP/1.1\r\nHost: shop\r\n\r\n" + HIDDEN,
    "a long head": b"GET /a HTTP/1.1\r\nHost: shop\r\nX: " + MAX_HEAD_BYTES * b"x" + b"\r\n\r\n" + HIDDEN,
    "a long trailer": CHUNKED + b"\r\n0\r\nX: " + MAX_HEAD_BYTES * b"x" + b"\r\n\r\n" + HIDDEN,
    "many requests": 120 * HIDDEN + LAST,
}


class Client(asyncio.Transport):
    """The other end of a connection, in memory: it sends while the server reads, and keeps what comes back."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self.pieces = pieces[::-1]
        self.received = b""
        self._is_paused = self._is_closing = False

    def send_to(self, protocol: HttpProtocol) -> bool:
        """Whether there was a piece to send."""
        if self._is_paused or self._is_closing or not self.pieces:
            return False
        protocol.data_received(self.pieces.pop())
        return True

    def write(self, data: Any) -> None:
        self.received += data

    def close(self) -> None:
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what was understood."""
    request = Request(scope, receive)
    body = (await request.body()).decode("latin-1")
    headers = sorted((name, value) for name, value in request.headers.items() if name != "upgrade")
    await JSONResponse([request.method, request.url.path, headers, body])(scope, receive, send)


config = uvicorn.Config(tell, http=HttpProtocol, ws="none", lifespan="off", log_config=None, reset_contextvars=True)
config.load()


async def answers(pieces: list[bytes]) -> bytes:
    """All that is answered, with ids replaced."""
    serving = ServerState()
    client = Client(pieces)
    protocol = HttpProtocol(config=config, server_state=serving, app_state={})
    protocol.connection_made(client)
    while client.send_to(protocol) or serving.tasks:
        await asyncio.sleep(0)
        if serving.tasks and (client._is_paused or not client.pieces):
            await asyncio.wait(serving.tasks)
    await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    return re.sub(rb"[0-9a-f]{32}", b"", client.received)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_answers_are_the_same_wherever_the_bytes_are_cut(case: bytes) -> None:
    whole = await answers([case])
    assert whole.startswith(b"HTTP/1.1 ")
    ends = sorted({*range(1, min(len(case), 400)), *range(1, len(case), max(1, len(case) // 60))})
    for end in ends:
        assert await answers([case[:end], case[end:]]) == whole, (end, case[end - 20 : end], case[end : end + 20])
    if len(case) < 2000:
        assert await answers([case[at : at + 1] for at in range(len(case))]) == whole


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=st.sampled_from(sorted(CASES.values())), data=st.data())
def test_the_answers_are_the_same_however_the_bytes_are_cut(case: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(case) - 1), max_size=12)))
    pieces = [case[start:end] for start, end in zip([0, *cuts], [*cuts, len(case)], strict=True)]

    async def both() -> tuple[bytes, bytes]:
        return await answers([case]), await answers(pieces)

    whole, in_pieces = asyncio.run(both())
    assert in_pieces == whole
