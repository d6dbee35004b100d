"""HTTP/1.1: the head of a request (line and headers) is limited in size and time; an invalid request gets an error."""

import asyncio
import uuid
from contextvars import Context
from itertools import chain
from typing import Any

import httptools
import orjson
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from chassis.errors import ApiError, ErrorCode
from chassis.errors.answers import answer
from chassis.logging import get_logger
from chassis.process.http_writing import Gathering

log = get_logger(__name__)
_MALFORMED = ErrorCode.MALFORMED_REQUEST

MAX_HEAD_BYTES = 65_536
"""The largest size of a request's line and headers: the same as a body's default limit. Proxies allow 8 or 16 KiB."""

MAX_URL_BYTES = 8_192
"""The largest size of a request's target (the URL in its first line). RFC 9110 recommends at least 8,000 bytes."""
MAX_HEADERS = 100
"""The largest number of a request's headers. A browser sends 20 headers, and proxies add 10."""
MAX_PIPELINED = 32
"""The largest number of requests of a connection that wait until earlier requests are answered. Bytes of further
requests are parsed later. No common client sends a request before the answer to its previous request."""
HEAD_SECONDS = 10.0
"""The time limit of three waits: for a connection's first request to begin, for a head that has begun to be complete
(64 KiB at 6 KiB/s), and for the rest of a body after the answer was sent."""

_PIECE_BYTES = 4_096
"""The number of bytes that are parsed at once. These bytes can contain 200 requests, so a connection may exceed
`MAX_PIPELINED` by 200."""
_SEPARATORS = 4  # each header line has these bytes beside name and value: a colon, a space, CR and LF
_MAX_UNFINISHED_BYTES = MAX_HEAD_BYTES + 1_024  # 1,024 for white space and the rest of the request's line
"""The largest number of bytes, such as trailers and chunk extensions, that may arrive without completing a head or a
piece of a body."""
_VERSIONS = frozenset({"1.1", "1.0"})
_ONCE = (b"host", b"authorization", b"idempotency-key", b"content-type", b"content-encoding", b"x-request-timeout-ms")
"""Headers that may occur only once. If such a header occurs twice, two servers could read different values."""
_NOTHING = memoryview(b"")
_UNREADABLE = "Invalid HTTP request received."


class HeadRefused(httptools.HttpParserError):
    """The line or the headers of a request are invalid. `refusal` is the error to answer with."""

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        super().__init__(message or code.name)
        self.refusal = ApiError(code, message)


class _Flow(FlowControl):
    """Like uvicorn's flow control, except that reading does not resume while received bytes wait to be parsed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_full = False

    def hold(self, *, is_full: bool) -> None:
        self._is_full = is_full
        if is_full:
            self.pause_reading()

    def resume_reading(self) -> None:
        if not self._is_full:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol on llhttp, the parser of Node.js, with limits that neither uvicorn nor llhttp has.

    llhttp neither bounds a request's head nor requires Host. In three cases uvicorn waits for a client without a limit:

    - The client does not send its first request, or the rest of a request's head that it has begun.
    - The client has its answer, and does not send the rest of the request's body.
    - The client does not read its answers.

    With such waits, a few thousand sockets of an attacker could use up all file descriptors. uvicorn's other parser,
    h11, is written in Python. With h11 a request costs 50 µs of CPU time more, as much as all work of the chassis.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_reading_head = self._is_reading_body = False
        self._unfinished_bytes = 0
        self._late: asyncio.TimerHandle | None = None
        self._current: RequestResponseCycle | None = None
        self._is_held = False
        self._refusal: ApiError | None = None
        self._unparsed = _NOTHING

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._writing = Gathering(transport)
        super().connection_made(self._writing)  # type: ignore[arg-type]
        self.flow = self._flow = _Flow(self._writing)  # type: ignore[arg-type]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        if self._current is not None and not self._current.response_complete:
            self._disconnect(self._current)  # uvicorn disconnects only the newest request
        self._writing.stop()

    # Reading requests

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        self._read_on()
        last: RequestResponseCycle | None = self.cycle
        if last is None or last.response_complete:
            self._await_head()  # the timer starts once: further bytes do not extend it
        else:
            self._stop_waiting()

    def _read_on(self) -> None:
        """Parse the received bytes, as long as fewer than `MAX_PIPELINED` requests wait."""
        try:
            while self._unparsed and self._refusal is None and len(self.pipeline) < MAX_PIPELINED:
                piece, self._unparsed = self._unparsed[:_PIECE_BYTES], self._unparsed[_PIECE_BYTES:]
                self._unfinished_bytes += len(piece)
                self._parse(piece)
                if self._unfinished_bytes > _MAX_UNFINISHED_BYTES:
                    raise HeadRefused(ErrorCode.HEADERS_TOO_LARGE)
        except httptools.HttpParserError as error:
            cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            self._unparsed = _NOTHING
            self._refuse(cause.refusal if isinstance(cause, HeadRefused) else ApiError(_MALFORMED, _UNREADABLE))
        if self._refusal is not None:
            self._unparsed = _NOTHING  # bytes after an invalid request are ignored
        self._flow.hold(is_full=bool(self._unparsed))

    def _parse(self, data: memoryview) -> None:
        """Pass the bytes to the parser, and ignore a client's offer to upgrade to another protocol.

        llhttp stops after the head of a request with an Upgrade header, and treats the body as data of the other
        protocol. So a new parser parses the same head again, without that header.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # uvicorn sets this option, too
                self.parser.feed_data(head)
                data = data[upgrade.args[0] :]
            else:
                return

    def _head_without_offer(self) -> bytes:
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [b"%s: %s\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"".join([line, *fields, b"\r\n"])

    def on_message_begin(self) -> None:
        self._is_reading_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            raise HeadRefused(ErrorCode.URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) == MAX_HEADERS:
            raise HeadRefused(ErrorCode.HEADERS_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._check_head()
        if self.parser.should_upgrade():
            return  # `_parse` parses this head again, without Upgrade
        self._is_reading_head, self._is_reading_body = False, True
        self._unfinished_bytes = 0
        super().on_headers_complete()
        self.headers = []  # the parser adds trailers (fields after the body) to this list, which no code reads

    def _check_head(self) -> None:
        """Raise `HeadRefused` for a head that is too large, or that two servers could understand differently."""
        self._check_size()
        names = [name for name, _ in self.headers]
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise HeadRefused(_MALFORMED, "The request has to be HTTP/1.1 or HTTP/1.0.")
        if self.parser.get_method() == b"CONNECT":
            raise HeadRefused(_MALFORMED, "This server is not a proxy: it does not accept CONNECT.")
        if version == "1.1" and b"host" not in names:
            raise HeadRefused(_MALFORMED, "The Host header is missing.")  # RFC 9112, section 3.2 requires Host
        if len(set(names)) != len(names):
            twice = next((name for name in _ONCE if names.count(name) > 1), None)
            if twice is not None:
                raise HeadRefused(_MALFORMED, f"The header {twice.decode()} may occur only once.")

    def _check_size(self) -> None:
        size = len(self.url) + sum(map(len, chain.from_iterable(self.headers))) + _SEPARATORS * len(self.headers)
        if size > MAX_HEAD_BYTES:
            raise HeadRefused(ErrorCode.HEADERS_TOO_LARGE)

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_reading_head:
            return  # after a head with an Upgrade header, llhttp reports an end that is not the end of the request
        self._check_size()  # the first check ran before the trailers (fields after the body) arrived
        self._is_reading_body = False
        self._unfinished_bytes = 0
        super().on_message_complete()

    # Writing answers

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._is_held and not self.transport.is_closing():
            self._is_held = False
            self._start_asgi_task(*self.pipeline.pop())

    def on_response_complete(self) -> None:
        if self.pipeline or self._unparsed:
            # The context is empty, because the next request must not inherit this request's deadline and caller.
            Context().run(self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._writing.flush()
        if self._refusal is not None and not self.pipeline and not self.transport.is_closing():
            self._write(self._refusal)
            self.transport.close()
        super().on_response_complete()
        if self._unparsed and not self.transport.is_closing():
            self._read_on()
        if self.cycle.response_complete and (self._is_reading_head or self._is_reading_body):
            self._await_head()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start the work on a request, once the client has read the earlier answers.

        So a client that does not read causes at most one answer beyond `MAX_UNSENT_BYTES`, and no further work.
        """
        if self.flow.write_paused:
            self._is_held = True
            self.flow.pause_reading()
            self.pipeline.append((cycle, app))  # `resume_writing` takes this request from the same end
        else:
            self._current = cycle
            super()._start_asgi_task(cycle, app)

    def _await_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, error: ApiError) -> None:
        """Answer the requests that came before the invalid request. Then send `error`, and close the connection."""
        unread: RequestResponseCycle | None = self.cycle if self._is_reading_body else None
        if unread is not None and unread is not self._current:
            self.pipeline.popleft()  # this request has not started, because it waits for earlier requests
            unread, self._is_held = None, self._is_held and bool(self.pipeline)
        is_answering = self._current is not None and not self._current.response_complete
        if unread is None and (is_answering or self.pipeline):
            self._refusal = error
            return
        if unread is None or not unread.response_started:  # a started answer must not contain `error`
            self._write(error)
        if unread is not None:
            self._disconnect(unread)
        self.transport.close()

    @staticmethod
    def _disconnect(cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True
        cycle.message_event.set()

    def _write(self, error: ApiError) -> None:
        request_id = uuid.uuid4().hex
        log.info("request_unreadable", request_id=request_id, code=error.code.name)
        found = answer(error, request_id=request_id)
        body = orjson.dumps(found.body)
        headers = {**found.headers, "Content-Length": str(len(body)), "Connection": "close"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[found.status] + lines.encode("latin-1") + b"\r\n" + body)
