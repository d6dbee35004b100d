"""One ASGI middleware around every request. The middleware sets the request's id, span, deadline and size limit, and
records metrics and the canonical log line (the one line that sums up the request).

All these concerns share one middleware, because each concern needs the same facts (route, status, duration). The
middleware uses ASGI directly, because Starlette's BaseHTTPMiddleware alone costs more than all of this module.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import Gauge, Histogram
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.app.api.error_rendering import DOCUMENTATION_KEY, EXPECTED, answer_to, render
from chassis.config.settings import HttpSettings
from chassis.errors import ApiError, ErrorCode
from chassis.fast.prometheus_labels import remembered
from chassis.logging import canonical_line, debugging, debugging_for, get_logger, request_id_from, request_id_var
from chassis.process.bodies import declares_more
from chassis.retries import deadlines
from chassis.telemetry import Span, SpanKind, StatusCode, span

if TYPE_CHECKING:
    from chassis.app.api.load_shedding import Slot

log = get_logger(__name__)

request_seconds = Histogram(
    "http_server_request_duration_seconds",
    "Duration of requests.",
    ["method", "route", "status"],
    # OpenTelemetry recommends these boundaries.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
_request_seconds = remembered(request_seconds)
active_requests = Gauge("http_server_active_requests", "Requests being answered.")

_MAX_PATH = 256
"""The largest number of characters of a path in logs and spans. The limit bounds the time that redaction takes."""
_SCOPE_KEY = "holdfast.exchange"
_SERVER_ERROR = 500
_LEFT_UNREAD = frozenset({408, 413})  # the connection is closed after these answers, so the rest of a body is not read
_DEADLINE = deadlines.HEADER.lower().encode()
_DEBUG = debugging.HEADER.lower().encode()
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContext:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._settings = settings
        self._active = 0
        active_requests.set_function(lambda: self._active)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        exchange = Exchange(scope, receive, send, headers, self._settings.max_body_bytes)
        scope[_SCOPE_KEY] = exchange
        scope[DOCUMENTATION_KEY] = self._settings.documentation_url
        exchange.request_id = request_id_from(headers.get(b"x-request-id", ""))
        # Each request runs in a separate task, so no other request reads this id from the context variable.
        request_id_var.set(exchange.request_id)
        with (
            deadlines.deadline(deadlines.from_header(headers.get(_DEADLINE), self._settings.default_deadline)),
            debugging_for(headers.get(_DEBUG)),
            canonical_line() as fields,
        ):
            self._active += 1
            try:
                with span(
                    exchange.method,
                    kind=SpanKind.SERVER,
                    traceparent=headers.get(b"traceparent"),
                    attributes=lambda: _attributes(scope, exchange),
                ) as current:
                    log.debug("request_received", method=exchange.method, path=scope["path"][:_MAX_PATH])
                    try:
                        await self._answer(scope, exchange)
                    finally:
                        _describe(current, exchange)
                        self._record(exchange, fields)
            finally:
                self._active -= 1

    async def _answer(self, scope: Scope, exchange: "Exchange") -> None:
        try:
            try:
                deadlines.check("the request began")
                await self._app(scope, exchange.receive, exchange.send)
            except EXPECTED as error:
                if exchange.status is not None:
                    raise  # an answer has begun, so an error answer cannot be sent
                await answer_to(scope, error)(scope, exchange.receive, exchange.send)
        except Exception:
            # An unexpected error is logged once, here, and the answer contains none of its details.
            log.exception("request_failed", route=exchange.route)
            await exchange.refuse(ApiError(ErrorCode.INTERNAL_ERROR))
        except asyncio.CancelledError:
            # Only the server cancels a request, when a stopping process has waited for its requests for the drain
            # time-out. The request's task ends here, so the cancellation is not raised again.
            log.warning("request_cancelled", route=exchange.route)
            await exchange.refuse(ApiError(ErrorCode.SHUTTING_DOWN, retry_after=1))

    @staticmethod
    def _record(exchange: "Exchange", fields: Mapping[str, Any]) -> None:
        seconds = time.perf_counter() - exchange.started
        route = exchange.route
        status = exchange.status or 499  # 499: the caller disconnected before an answer began
        _request_seconds(exchange.method, route, status).observe(seconds)
        log.info(
            "request_completed",
            method=exchange.method,
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 2),
            deadline_left_ms=round(deadlines.remaining() * 1000),
            **fields,
        )


class Exchange:
    """One request and its answer. The exchange bounds the size of the request's body, records the answer's status, and
    adds `headers` to the answer.

    `request_headers` maps the name of each request header, in lower case, to its first value.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, request_headers: Mapping[bytes, str], max_body_bytes: int
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self.request_headers = request_headers
        self._received = 0
        self.request_id = ""
        method: str = scope["method"]
        # All other methods share one name, so that callers cannot add label values to metrics.
        self.method = method if method in _METHODS else "_OTHER"
        self.headers: dict[str, str] = {}
        self.slot: Slot | None = None
        self.status: int | None = None
        self.started = time.perf_counter()

    @staticmethod
    def of(scope: Scope) -> "Exchange":
        """The exchange of the request that `scope` belongs to."""
        exchange: Exchange = scope[_SCOPE_KEY]
        return exchange

    @property
    def route(self) -> str:
        """The path template of the request's route, such as `/orders/{id}`. Metrics have templates as label values,
        because the number of paths is unlimited. All requests that match no route share one value.
        """
        return getattr(self._scope.get("route"), "path", "unmatched")

    async def refuse(self, error: ApiError) -> None:
        """Answer with the error, unless an answer has begun already."""
        if self.status is None:
            await render(self._scope, error)(self._scope, self.receive, self.send)

    async def receive(self) -> Message:
        if self.status is None and declares_more(self.request_headers, self._max_body_bytes):
            raise HTTPException(413)
        try:
            async with asyncio.timeout(max(0.0, deadlines.remaining()) if self.status is None else None):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408) from None  # after the deadline, a slow body must not hold a slot any longer
        self._received += len(message.get("body", b""))
        if self._received > self._max_body_bytes:
            # The exception must be Starlette's: FastAPI turns any other exception that is raised here into a 400.
            raise HTTPException(413)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.slot is not None:
                self.slot.release()
            added = self.headers
            added["X-Request-ID"] = self.request_id
            if self.status in _LEFT_UNREAD:
                added["Connection"] = "close"
            MutableHeaders(scope=message).update(added)
        await self._send(message)


def _attributes(scope: Scope, exchange: Exchange) -> dict[str, str | int]:
    """The span's attributes, without the query and the headers, which may hold secrets."""
    return {
        "http.request.method": exchange.method,
        "url.path": scope["path"][:_MAX_PATH],
        "url.scheme": scope["scheme"],
    }


def _describe(current: Span, exchange: Exchange) -> None:
    """Record the answer on the span. By OpenTelemetry's rules a 4xx is not a failure of the server."""
    if not current.is_recording():
        return
    current.update_name(f"{exchange.method} {exchange.route}")
    attributes: dict[str, str | int] = {"http.route": exchange.route}
    if exchange.status is not None:
        attributes["http.response.status_code"] = exchange.status
        if exchange.status >= _SERVER_ERROR:
            attributes["error.type"] = str(exchange.status)
            current.set_status(StatusCode.ERROR)
    current.set_attributes(attributes)
