"""HTTP/1.1 as this platform accepts it: heads are bounded in size and time, and what is no request is answered in the
envelope too.
"""

import asyncio
import sys
import uuid
from itertools import chain
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from chassis.error_answers import answer
from chassis.errors import ApiError, ErrorCode
from chassis.logging import get_logger

log = get_logger(__name__)

_MALFORMED = ErrorCode.MALFORMED_REQUEST

MAX_HEAD_BYTES = 65_536
"""Of a request's line and headers: as much as a body may have by default. Proxies stop at 8 or 16 KiB."""

MAX_URL_BYTES = 8_192
"""Of a request's target: RFC 9110 wants 8,000 to be taken."""
MAX_HEADERS = 100
"""Of a request: a browser sends 20, and proxies add 10."""
HEAD_SECONDS = 10.0
"""For a connection's first request to begin, for each head to arrive once it has begun (64 KiB at 6 KiB/s), and for the
rest of a body that was answered before it was all there."""


class HeadRefused(httptools.HttpParserError):
    """A request's line or headers are more than is taken."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


class Gathering:
    """A transport that writes once in a turn of the event loop: uvicorn writes an answer's head and body one by one.

    A system call, with the reader that it wakes, costs as much as a route's match.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces and not self._transport.is_closing():
            self._transport.write(b"".join(self._pieces))
        self._pieces.clear()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol on llhttp, Node's parser, which neither bounds a head nor asks for Host.

    In Python alone, on h11, a request costs 50 µs more, as much as all that the chassis does with it. uvicorn waits for
    ever for the first request of a connection, for the rest of a head, and for the rest of a body that nobody reads any
    more: somebody with some thousand sockets would leave none for others.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_reading_head = self._is_reading_body = False
        self._head_bytes = 0
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Gathering(transport))  # type: ignore[arg-type]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        last: RequestResponseCycle | None = self.cycle
        if self._is_reading_head or last is None or last.response_complete:
            self._await_head()  # once: a further byte gives it no more time
        else:
            self._stop_waiting()
        if self._is_reading_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(ApiError(ErrorCode.HEADERS_TOO_LARGE))

    def on_message_begin(self) -> None:
        self._is_reading_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_reading_head = False
        if len(self.url) > MAX_URL_BYTES:
            raise HeadRefused(ErrorCode.URI_TOO_LONG)
        head_bytes = len(self.url) + sum(map(len, chain.from_iterable(self.headers)))
        hosts = [name for name, _ in self.headers].count(b"host")
        if head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:  # it has arrived at once
            raise HeadRefused(ErrorCode.HEADERS_TOO_LARGE)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise httptools.HttpParserError("one Host is needed")  # RFC 9112, section 3.2
        super().on_headers_complete()
        self._is_reading_body = True

    def on_message_complete(self) -> None:
        self._is_reading_body = False
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """It is answered like any other request, and any stranger could fill the log with warnings."""

    def send_400_response(self, msg: str) -> None:
        cause = getattr(sys.exception(), "__context__", None)
        self._refuse(ApiError(cause.code) if isinstance(cause, HeadRefused) else ApiError(_MALFORMED, msg))

    def _await_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, error: ApiError) -> None:
        """Close the connection, with this answer if it can only be taken for what could not be read."""
        last: RequestResponseCycle | None = self.cycle
        if last is not None and not last.response_complete and not self._is_reading_body:
            last.keep_alive = False  # what came before is answered first, and then the connection ends
            return
        has_begun = last is not None and self._is_reading_body and (last.response_started or bool(self.pipeline))
        if not has_begun:
            self._write(error)
        if last is not None:
            last.disconnected = True
            last.message_event.set()
        self.transport.close()

    def _write(self, error: ApiError) -> None:
        request_id = uuid.uuid4().hex
        log.info("request_unreadable", request_id=request_id, code=error.code.name)
        found = answer(error, request_id=request_id)
        body = orjson.dumps(found.body)
        headers = {**found.headers, "Content-Length": str(len(body)), "Connection": "close"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[found.status] + lines.encode("latin-1") + b"\r\n" + body)
