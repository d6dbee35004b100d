"""One HTTP request and its answer. This module sets the headers, limits the duration of the request and the size of the
answer, and turns aiohttp's errors into the chassis' errors.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver

from chassis.calls.response import Response
from chassis.config.settings import DependencySettings
from chassis.errors import DependencyFailed, DependencyTimeout, DependencyUnavailable
from chassis.logging import debug_header, debugging, request_id_var
from chassis.pooling.http_pool import MeasuredConnector
from chassis.retries import deadlines
from chassis.telemetry import current_traceparent

_DEFAULT_PORTS = {"http": 80, "https": 443}

# The client closes a connection that has been idle for this time. A server with uvicorn's default closes an idle
# connection later, after 5 s. If the server closed the connection while the client sent a request, the client could not
# know whether the request ran.
_KEEPALIVE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    operation: str
    params: Mapping[str, str] | None
    headers: Mapping[str, str]
    body: bytes | None


class Exchange:
    """A pool of connections to one dependency. `send` sends a request once and does not retry."""

    def __init__(
        self,
        name: str,
        settings: DependencySettings,
        *,
        authorization: Callable[[], str],
        is_external: bool,
        resolver: AbstractResolver | None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._authorization = authorization
        self._is_external = is_external
        self._base_url = settings.base_url.rstrip("/")
        # This time-out bounds only the wait for a connection. `send` limits the duration of the whole attempt.
        self._timeout = aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout)
        self._session = aiohttp.ClientSession(
            connector=MeasuredConnector(
                name, limit=settings.max_connections, keepalive_timeout=_KEEPALIVE_SECONDS, resolver=resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=[_send_once],
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(self, request: Request) -> Response:
        """Send the request once, and return the answer, whatever its status. Raises a `DependencyError` when no answer
        arrives before the attempt's time-out or the deadline.
        """
        seconds = min(self._settings.attempt_timeout, deadlines.remaining())
        try:
            # aiohttp's read time-out restarts with each read, so it would not stop a server that sends one byte at a
            # time. `asyncio.timeout` bounds the whole attempt.
            async with asyncio.timeout(seconds):
                return await self._exchange(request, seconds)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            # The name look-up, the connection or TLS failed. Only these two aiohttp errors prove that no request was
            # sent.
            raise DependencyUnavailable(self._name, "no connection") from error
        except TimeoutError as error:
            raise DependencyTimeout(self._name, seconds, cut_short=seconds < self._settings.attempt_timeout) from error
        except aiohttp.ClientError as error:
            reason = f"connection lost or answer unreadable ({type(error).__name__})"
            raise DependencyFailed(self._name, reason) from error

    def span_attributes(self, request: Request) -> dict[str, str | int]:
        """The attributes of an attempt's span. The URL omits the query, which may hold personal data."""
        url = urlsplit(self._base_url + request.path)
        return {
            "http.request.method": request.method,
            "server.address": url.hostname or "",
            "server.port": url.port or _DEFAULT_PORTS.get(url.scheme, 0),
            "url.full": url.geturl(),
            "peer.service": self._name,
        }

    async def _exchange(self, request: Request, seconds: float) -> Response:
        async with self._session.request(
            request.method,
            self._base_url + request.path,
            params=request.params,
            data=request.body,
            headers={
                "Authorization": self._authorization(),
                **self._propagated_headers(seconds),
                **({} if request.body is None else {"Content-Type": "application/json"}),
                **request.headers,
            },
            allow_redirects=False,
            timeout=self._timeout,
        ) as answer:
            return Response(self._name, answer.status, await self._read(answer), answer.headers)

    def _propagated_headers(self, seconds: float) -> dict[str, str]:
        """Headers with the time left until the deadline, and with the id and the trace of the request that caused this
        call.
        """
        headers = {deadlines.HEADER: deadlines.to_header(seconds)}
        if request_id := request_id_var.get():
            headers["X-Request-ID"] = request_id
        if traceparent := current_traceparent():
            headers["traceparent"] = traceparent
        if (debug := debug_header()) and not self._is_external:
            headers[debugging.HEADER] = debug
        return headers

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._settings.max_response_bytes:
                # This error leaves the `async with` block in `_exchange`. aiohttp then closes the connection and does
                # not read the rest of the body.
                reason = f"the answer is larger than {self._settings.max_response_bytes} bytes"
                raise DependencyFailed(self._name, reason, status=answer.status)
        return bytes(body)


class _ConnectionLost(aiohttp.ClientError):
    """The connection was lost, and the request may have been sent before."""


async def _send_once(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating GET, PUT and DELETE by itself after a lost connection.

    aiohttp's repetition would be a second layer of retries, which the retry budget (the limit of a process's retries)
    does not count. The repetition could also misreport the outcome. If the second try were refused, the error would say
    "the call did not run", although the first try may have run.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost(type(error).__name__) from error
