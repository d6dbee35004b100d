"""Outbound HTTP: one client per dependency, and the one place where the patterns around a call are put together.

    fallback( retry( breaker( bulkhead( timeout( call )))))

The order, from the inside: the time-out ends one attempt. The bulkhead counts attempts, not waits between them. The
breaker sees each attempt (a time-out is its failure, a full bulkhead is not) and an open one costs no bulkhead place.
The retry sees an open breaker and stops at once. The fallback sees what is left when all of it has failed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from prometheus_client import Histogram
from pydantic import BaseModel, SecretStr, ValidationError

from chassis.calls.bulkhead import Bulkhead
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import DependencySettings
from chassis.errors import (
    DeadlineExceeded,
    DependencyError,
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
)
from chassis.logging import (
    add_to_canonical_line,
    debug_header,
    debugging,
    get_logger,
    put_on_canonical_line,
    request_id_var,
)
from chassis.pooling import check_nothing_held
from chassis.pooling.http_pool import MeasuredConnector
from chassis.retries import RetryBudget, deadlines, parse_retry_after, retry
from chassis.telemetry import SpanKind, current_traceparent, span

log = get_logger(__name__)

request_seconds = Histogram(
    "http_client_request_duration_seconds",
    "Duration of attempts; `status` is empty without an answer, `error_type` without a failure.",
    ["dependency", "operation", "status", "error_type"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),  # OTel's advice
)

_TOO_MANY_REQUESTS = 429
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Below uvicorn's default of 5 s: a request sent while the server closes the connection is lost, its outcome unknown.
_KEEPALIVE_SECONDS = 4.0

type AttemptHook = Callable[[int], Awaitable[None]]
type Fallback = Callable[[DependencyError], Awaitable["Response"]]


@dataclass(frozen=True, slots=True)
class Response:
    """A 2xx answer, read to its end. `degraded`: a fallback made it, not the dependency."""

    dependency: str
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    degraded: bool = False

    def json(self) -> object:
        """The parsed body. Raises `DependencyFailed` when it is not JSON."""
        try:
            parsed: object = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise DependencyFailed(self.dependency, "the answer is not JSON", status=self.status) from error
        return parsed

    def parse[M: BaseModel](self, model: type[M]) -> M:
        """The body as a `model`. Raises `DependencyFailed` when it is not one."""
        try:
            return model.model_validate_json(self.body)
        except ValidationError as error:
            raise DependencyFailed(self.dependency, f"the answer is no {model.__name__}", status=self.status) from error


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    operation: str
    params: Mapping[str, str] | None
    headers: Mapping[str, str]
    body: bytes | None
    before_attempt: AttemptHook | None
    on_not_run: AttemptHook | None


class HttpDependency:
    """One dependency over HTTP, made in a composition root (inside the running loop) and closed after draining.

    `authorization` gives the header that says who we are, for each attempt anew. `is_external`: somebody else's, who
    is told the trace but not given the means to turn our DEBUG on. `resolver` replaces the system's name resolution.
    """

    def __init__(
        self,
        name: str,
        settings: DependencySettings,
        *,
        authorization: Callable[[], str],
        breakers: BreakerRegistry,
        is_external: bool = False,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self.name = name
        self._authorization = authorization
        self._is_external = is_external
        self._settings = settings
        self._base_url = settings.base_url.rstrip("/")
        # The whole attempt is bounded by `_translated`; here only the wait for a connection.
        self._timeout = aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout)
        self._single_attempt = settings.retry.model_copy(update={"max_attempts": 1})
        self._breakers = breakers
        self._bulkhead = Bulkhead(name, limit=settings.max_in_flight)
        self._budget = RetryBudget(name, settings.retry)
        self._session = aiohttp.ClientSession(
            connector=MeasuredConnector(
                name, limit=settings.max_connections, keepalive_timeout=_KEEPALIVE_SECONDS, resolver=resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=[_send_once],
        )

    async def close(self) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        operation: str,
        json: object = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        retrying: bool = False,
        before_attempt: AttemptHook | None = None,
        on_not_run: AttemptHook | None = None,
        fallback: Fallback | None = None,
    ) -> Response:
        """Call `operation` and return its 2xx answer.

        `operation` names the call in metrics and has a breaker of its own. `idempotent` says that the call may safely
        be repeated (by nature, or by an Idempotency-Key in `headers`); `retrying` that this layer is the one to repeat
        it. `before_attempt(n)` runs once attempt n is certain to be sent, and an error in it prevents that;
        `on_not_run(n)` runs after it if attempt n is known to have had no effect.

        Raises `DeadlineExceeded` before anything is sent, else a `DependencyError`: `DependencyUnavailable` (known not
        to have run), `DependencyTimeout` or `DependencyFailed` (unknown), `DependencyRejected` (a 4xx). All but the
        last are given to `fallback` first.
        """
        deadlines.check(f"calling {self.name}")
        check_nothing_held(self.name)
        call = _Call(
            method=method,
            path=path,
            operation=operation,
            params=params,
            headers=headers or {},
            body=None if json is None else orjson.dumps(json),
            before_attempt=before_attempt,
            on_not_run=on_not_run,
        )
        try:
            return await retry(
                lambda attempt: self._guarded(call, attempt),
                policy=self._settings.retry if retrying else self._single_attempt,
                budget=self._budget,
                idempotent=idempotent,
                dependency=self.name,
            )
        except DependencyRejected:
            raise
        except DependencyError as error:
            if fallback is None:
                raise
            return replace(await fallback(error), degraded=True)

    async def _guarded(self, call: _Call, attempt: int) -> Response:
        """One attempt inside breaker and bulkhead, with its hooks."""
        begun = False
        breaker = self._breakers.get(self.name, call.operation, self._settings.breaker)
        try:
            with breaker.permit() as permit, self._bulkhead:
                if call.before_attempt:
                    await call.before_attempt(attempt)
                begun = True
                permit.restart()
                return await self._timed(call)
        except (DependencyUnavailable, DeadlineExceeded):
            if begun and call.on_not_run:
                await call.on_not_run(attempt)
            raise
        finally:
            put_on_canonical_line(breaker_state=breaker.state)

    async def _timed(self, call: _Call) -> Response:
        """One attempt inside its span and measured; work whose time is spent by now is not sent."""
        deadlines.check(f"calling {self.name}")
        started = time.perf_counter()
        status, error_type = "", ""
        with span(
            f"{call.method} {call.operation}", kind=SpanKind.CLIENT, attributes=lambda: self._attributes(call)
        ) as current:
            try:
                response = await self._translated(call)
                status = str(response.status)
            except BaseException as error:
                status = str(error.status or "") if isinstance(error, DependencyError) else ""
                error_type = _name(error)
                raise
            finally:
                if status:
                    current.set_attribute("http.response.status_code", int(status))
                seconds = time.perf_counter() - started
                request_seconds.labels(self.name, call.operation, status, error_type).observe(seconds)
                add_to_canonical_line(dependency_calls=1, dependency_ms=seconds * 1000)
                log.debug(
                    "dependency_called",
                    dependency=self.name,
                    operation=call.operation,
                    http_status=status,
                    error_type=error_type,
                    duration_ms=round(seconds * 1000, 2),
                )
            return response

    def _attributes(self, call: _Call) -> dict[str, str | int]:
        """The URL without its query, which may hold what somebody looks for."""
        url = urlsplit(self._base_url + call.path)
        return {
            "http.request.method": call.method,
            "server.address": url.hostname or "",
            "server.port": url.port or _DEFAULT_PORTS.get(url.scheme, 0),
            "url.full": url.geturl(),
            "peer.service": self.name,
        }

    async def _translated(self, call: _Call) -> Response:
        """One attempt within its time-out, with aiohttp's errors as ours."""
        seconds = min(self._settings.attempt_timeout, deadlines.remaining())
        try:
            # aiohttp's own time-outs restart with each read; this one a slow drip cannot outlive.
            async with asyncio.timeout(seconds):
                return await self._exchange(call, seconds)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            # No connection, no name or no TLS: the only errors after which certainly nothing was sent.
            raise DependencyUnavailable(self.name, "no connection") from error
        except TimeoutError as error:
            raise DependencyTimeout(self.name, seconds, cut_short=seconds < self._settings.attempt_timeout) from error
        except aiohttp.ClientError as error:
            raise DependencyFailed(self.name, f"connection lost or answer unreadable ({_name(error)})") from error

    async def _exchange(self, call: _Call, seconds: float) -> Response:
        async with self._session.request(
            call.method,
            self._base_url + call.path,
            params=call.params,
            data=call.body,
            headers={
                "Authorization": self._authorization(),
                **self._propagated_headers(seconds),
                **_content_type(call.body),
                **call.headers,
            },
            allow_redirects=False,
            timeout=self._timeout,
        ) as answer:
            body = await self._read(answer)
        return self._judge(answer, body)

    def _propagated_headers(self, seconds: float) -> dict[str, str]:
        """What the dependency should know of the request behind this call: its time left, its id and its trace."""
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
                # Leaving the block closes the connection: the rest is not read.
                reason = f"the answer is larger than {self._settings.max_response_bytes} bytes"
                raise DependencyFailed(self.name, reason, status=answer.status)
        return bytes(body)

    def _judge(self, answer: aiohttp.ClientResponse, body: bytes) -> Response:
        """The answer if it is a 2xx, else the error it stands for. A redirect is not followed and counts as failed."""
        status = answer.status
        retry_after = parse_retry_after(answer.headers.get("Retry-After"), now=time.time())
        if 200 <= status < 300:  # noqa: PLR2004  the 2xx range
            return Response(self.name, status, body, answer.headers)
        if status == _TOO_MANY_REQUESTS:
            raise DependencyUnavailable(self.name, "answered 429", status=status, retry_after=retry_after)
        if 400 <= status < 500:  # noqa: PLR2004  the 4xx range
            raise DependencyRejected(self.name, status, body)
        raise DependencyFailed(self.name, f"answered {status}", status=status, retry_after=retry_after)


class _ConnectionLost(aiohttp.ClientError):
    """The connection ended after the request may have been sent."""


async def _send_once(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating GET, PUT and DELETE by itself after a lost connection.

    It would be a second layer of retries, outside the budget, and worse: if its second try is refused, the caller
    would hear "refused" of a call whose first try may have run.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost(_name(error)) from error


def bearer(key: SecretStr) -> Callable[[], str]:
    """The header of who shows the same key each time."""
    return lambda: f"Bearer {key.get_secret_value()}"


def _content_type(body: bytes | None) -> dict[str, str]:
    return {} if body is None else {"Content-Type": "application/json"}


def _name(error: BaseException) -> str:
    return type(error).__name__
