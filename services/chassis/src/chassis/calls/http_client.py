"""Outbound HTTP: one client per dependency. The client puts these patterns around a call, the fallback outermost:

    fallback( retry( quota( breaker( bulkhead( timeout( call ))))))

The quota limits how often calls start, over all processes: a call waits for its turn, or is refused if the turn comes
too late for its deadline. The time-out bounds one attempt. The bulkhead limits the attempts that are under way; a call
that waits for its next attempt takes no slot of the bulkhead. The breaker counts the outcome of each attempt: a
time-out is a failure, a full bulkhead is not. An attempt that an open breaker refuses takes no slot of the bulkhead.
The retry makes no further attempt when the breaker is open. The fallback runs when all attempts have failed.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import orjson
from aiohttp.abc import AbstractResolver
from prometheus_client import Histogram
from pydantic import SecretStr

from chassis.calls.bulkhead import Bulkhead
from chassis.calls.degraded import record_degraded
from chassis.calls.exchange import Exchange, Request
from chassis.calls.quota import Quota
from chassis.calls.response import Response, accept
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import DependencySettings
from chassis.errors import DeadlineExceeded, DependencyError, DependencyRejected, DependencyUnavailable
from chassis.logging import add_to_canonical_line, get_logger, put_on_canonical_line
from chassis.pooling import check_nothing_held
from chassis.retries import RetryBudget, deadlines, retry
from chassis.telemetry import SpanKind, span

__all__ = ["AttemptHook", "Fallback", "HttpDependency", "Response", "bearer"]

log = get_logger(__name__)

request_seconds = Histogram(
    "http_client_request_duration_seconds",
    "Duration of attempts. `status` is empty if no answer came, and `error_type` if the attempt succeeded.",
    ["dependency", "operation", "status", "error_type"],
    # OpenTelemetry recommends these buckets.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)

type AttemptHook = Callable[[int], Awaitable[None]]
type Fallback = Callable[[DependencyError], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Hooks:
    before_attempt: AttemptHook | None
    on_not_run: AttemptHook | None


class HttpDependency:
    """The client of one dependency over HTTP.

    The code that assembles a process creates the client inside the running event loop, and closes the client after the
    process has drained. `authorization` returns the Authorization header of each attempt. `is_external` marks a
    dependency of another company. Such a dependency gets our trace id, but not the header that switches on DEBUG logs
    in our services. `resolver` replaces the system's name resolution.
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
        quota: Quota | None = None,
    ) -> None:
        self.name = name
        self._settings = settings
        self._single_attempt = settings.retry.model_copy(update={"max_attempts": 1})
        self._breakers = breakers
        self._quota = quota or Quota(name)
        self._bulkhead = Bulkhead(name, limit=settings.max_in_flight)
        self._budget = RetryBudget(name, settings.retry)
        self._exchange = Exchange(
            name, settings, authorization=authorization, is_external=is_external, resolver=resolver
        )

    async def close(self) -> None:
        await self._exchange.close()

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

        - `operation` names the call in metrics; each operation has its own breaker.
        - `idempotent` declares that a repetition is safe, by nature or by an Idempotency-Key in `headers`.
        - `retrying` lets the client repeat the call. Most jobs do not set `retrying`, because the job queue repeats the
          whole job.
        - `before_attempt(n)` runs before attempt n is sent; if `before_attempt` raises, attempt n is not sent.
        - `on_not_run(n)` runs after attempt n if attempt n certainly had no effect.
        - `fallback` returns an answer in place of a dependency that failed. After a 4xx, the fallback does not run.

        Raises `DeadlineExceeded` if the deadline passed before the call began. Raises `DependencyUnavailable` if the
        call did not run, `DependencyTimeout` or `DependencyFailed` if the call may have run, and `DependencyRejected`
        for a 4xx.
        """
        deadlines.check(f"calling {self.name}")
        check_nothing_held(self.name)
        request = Request(
            method=method,
            path=path,
            operation=operation,
            params=params,
            headers=headers or {},
            body=None if json is None else orjson.dumps(json),
        )
        hooks = _Hooks(before_attempt, on_not_run)
        try:
            return await retry(
                lambda attempt: self._guarded(request, hooks, attempt),
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
            record_degraded(self.name, operation, "failure")
            return replace(await fallback(error), degraded=True)

    async def _guarded(self, request: Request, hooks: _Hooks, attempt: int) -> Response:
        """Make one attempt inside the breaker and the bulkhead. Call `before_attempt` first, and `on_not_run` if the
        attempt had no effect.
        """
        begun = False
        breaker = self._breakers.get(self.name, request.operation, self._settings.breaker)
        # If a call waited longer for its turn (the time at which the quota lets it start), no time would be left for
        # its attempt.
        await self._quota.take(longest=deadlines.remaining() - self._settings.attempt_timeout)
        try:
            with breaker.permit() as permit, self._bulkhead:
                if hooks.before_attempt:
                    await hooks.before_attempt(attempt)
                begun = True
                permit.restart()
                return await self._measured(request)
        except (DependencyUnavailable, DeadlineExceeded):
            if begun and hooks.on_not_run:
                await hooks.on_not_run(attempt)
            raise
        finally:
            put_on_canonical_line(breaker_state=breaker.state)

    async def _measured(self, request: Request) -> Response:
        """Make one attempt, and record its span, metrics and log line. Sends no request after the deadline."""
        deadlines.check(f"calling {self.name}")
        started = time.perf_counter()
        status, error_type = "", ""
        with span(
            f"{request.method} {request.operation}",
            kind=SpanKind.CLIENT,
            attributes=lambda: self._exchange.span_attributes(request),
        ) as current:
            try:
                response = await self._accepted(request)
                status = str(response.status)
            except BaseException as error:
                status = str(error.status or "") if isinstance(error, DependencyError) else ""
                error_type = type(error).__name__
                raise
            finally:
                if status:
                    current.set_attribute("http.response.status_code", int(status))
                seconds = time.perf_counter() - started
                request_seconds.labels(self.name, request.operation, status, error_type).observe(seconds)
                add_to_canonical_line(dependency_calls=1, dependency_ms=seconds * 1000)
                log.debug(
                    "dependency_called",
                    dependency=self.name,
                    operation=request.operation,
                    http_status=status,
                    error_type=error_type,
                    duration_ms=round(seconds * 1000, 2),
                )
            return response

    async def _accepted(self, request: Request) -> Response:
        """Send the request, and return its 2xx answer. A refusal (429, or 503 with Retry-After) pauses all calls to the
        dependency.
        """
        answer = await self._exchange.send(request)
        try:
            accepted = accept(answer, now=time.time())
        except DependencyError as error:
            if error.is_refusal:
                self._quota.note(answer.headers)
                error.retry_after = await self._quota.pause(error.retry_after)
            raise
        # The quota reads the RateLimit headers of 2xx answers and of refusals only. The headers of other answers may
        # describe another limit, such as the limit of callers without a valid key.
        self._quota.note(answer.headers)
        self._quota.note_success()
        return accepted


def bearer(key: SecretStr) -> Callable[[], str]:
    """A function that returns an Authorization header with a fixed key."""
    return lambda: f"Bearer {key.get_secret_value()}"
