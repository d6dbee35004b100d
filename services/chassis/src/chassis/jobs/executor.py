"""Makes one attempt at a job: parses the payload, runs the handler within its time limit, and records the outcome."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg
from pydantic import ValidationError

from chassis.config.settings import JobSettings
from chassis.errors import HoldfastError, LeaseLost, PermanentJobError
from chassis.fast.prometheus_labels import remembered
from chassis.jobs.decisions import Outcome, decide_failure
from chassis.jobs.metrics import duration_seconds, processed
from chassis.jobs.payload import JobOptions, JobPayload
from chassis.jobs.running_job import Handler, RunningJob
from chassis.jobs.runs import Run, tokens
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.logging import bind_to_task, canonical_line, debugging_for, get_logger
from chassis.pooling import Database
from chassis.retries import deadlines, full_jitter
from chassis.telemetry import SpanKind, record_failure, span

log = get_logger(__name__)

_processed, _duration_seconds = remembered(processed), remembered(duration_seconds)

RETRY_SECONDS = 0.2
"""The pause before a statement is tried again in an outage of the database. The pause is short, so that many tries fit
into a lease: once the lease has expired, another worker may own the job."""


class Executor:
    """Runs attempts at jobs of one queue.

    `finish(run)` commits the end of a job whose handler has returned, and returns whether the worker still owned the
    job. `tolerate(error)` logs an error of the database after which a statement may be tried again, and raises any
    other error. `hold(run, seconds)` keeps the worker from claiming jobs, because the job's dependency refuses calls
    for now.
    """

    def __init__(
        self,
        database: Database,
        handlers: Mapping[type[JobPayload], Handler],
        settings: JobSettings,
        *,
        finish: Callable[[Run], Awaitable[bool]],
        tolerate: Callable[[Exception], None],
        hold: Callable[[Run, float], None],
        random: Callable[[], float],
    ) -> None:
        self._database = database
        self._handlers = {(kind.options.name, kind.options.version): (kind, call) for kind, call in handlers.items()}
        self._settings = settings
        self._queue = settings.queue
        self._finish = finish
        self._tolerate = tolerate
        self._hold = hold
        self._random = random
        self.is_draining = False
        """True once the worker begins to stop. From then on, the statement that records a failed attempt is executed
        only once, even if the statement fails."""

    async def execute(self, run: Run) -> Outcome:
        """Make the attempt, record its end, and write its span, its metrics, and its canonical line (the one log line
        that sums up the attempt).
        """
        job, started = run.job, time.perf_counter()
        with (
            span(
                f"run {job.name}",
                kind=SpanKind.CONSUMER,
                traceparent=run.row["traceparent"],
                attributes=lambda: self._attributes(job),
            ) as current,
            debugging_for(run.row["debug"]),
            canonical_line() as line,
        ):
            bind_to_task(job=job.name, job_id=job.id, attempt=job.attempt)
            log.debug("job_started", queue=self._queue, max_attempts=job.max_attempts)
            outcome, error = await self._attempt(run)
            elapsed = time.perf_counter() - started
            _processed(self._queue, job.name, outcome).inc()
            _duration_seconds(self._queue, job.name).observe(elapsed)
            line.update(
                queue=self._queue,
                outcome=outcome,
                duration_ms=round(elapsed * 1000, 1),
                waited_ms=round(run.row["waited"] * 1000, 1),
            )
            _write_line(outcome, error, line)
            if error is not None:
                record_failure(current, error)
        return outcome

    def _attributes(self, job: RunningJob) -> dict[str, str | int]:
        return {
            "messaging.system": "postgresql",
            "messaging.operation.type": "process",
            "messaging.destination.name": self._queue,
            "messaging.message.id": str(job.id),
            "holdfast.job.attempt": job.attempt,
        }

    async def _attempt(self, run: Run) -> tuple[Outcome, Exception | None]:
        error: Exception | None = None
        try:
            await self._handle(run)
        except asyncio.CancelledError:
            if run.ended_by is None:
                raise
            return run.ended_by, None
        except LeaseLost as lost:
            return "lease_lost", lost
        except Exception as raised:  # noqa: BLE001  every error of a handler decides how the job ends
            error = raised
        if run.job.is_complete:
            return "completed", error
        run.job.is_finishing = True
        if error is not None:
            return await self._fail(run, error), error
        return "completed" if await self._finish(run) else "lease_lost", None

    async def _handle(self, run: Run) -> None:
        payload, handler = self._load(run.row)
        limit, left = payload.options.time_limit, run.row["seconds_left"]
        time_limit = asyncio.timeout(limit)
        try:
            async with time_limit:
                with deadlines.deadline(limit if left is None else min(limit, left)):
                    await handler(run.job, payload)
        except TimeoutError as error:
            if time_limit.expired():
                raise TimeoutError(f"not done within its time limit of {limit:g} s") from error
            raise

    def _load(self, row: asyncpg.Record) -> tuple[JobPayload, Handler]:
        """The payload and its handler.

        Raises `PermanentJobError` if the deadline has passed, the payload is invalid, or this worker has no handler.
        """
        if row["seconds_left"] is not None and row["seconds_left"] <= 0:
            deadlines.deadline_exceeded.inc()
            raise PermanentJobError("its deadline passed before it was started")
        kind, handler = self._handlers.get((row["name"], row["payload_version"]), (None, None))
        if kind is None or handler is None:
            raise PermanentJobError(f"this worker has no handler for {row['name']} version {row['payload_version']}")
        try:
            return kind.model_validate_json(row["payload"]), handler
        except ValidationError as error:
            raise PermanentJobError(f"its payload is not a {kind.__name__}: {error}") from error

    async def _fail(self, run: Run, error: Exception) -> Outcome:
        """Record the failed attempt. In an outage, repeat the statement until the lease expires or the worker stops."""
        decision = decide_failure(run.job, error, lambda: self._backoff(run))
        values: Mapping[str, object] = {"id": run.job.id, "attempt": run.job.attempt, **decision.values}
        if decision.statement == "hand_back":
            values = tokens([run])
            self._hold(run, decision.pause)
        while True:
            try:
                async with self._database.driver() as connection:
                    is_ours = await DRIVER_STATEMENTS[decision.statement].fetch(connection, **values)
            except Exception as failure:  # noqa: BLE001  `_tolerate` raises the error again unless it is transient
                self._tolerate(failure)
            else:
                return decision.outcome if is_ours else "lease_lost"
            if self.is_draining or time.monotonic() >= run.lease_until:
                return "lease_lost"
            await asyncio.sleep(RETRY_SECONDS)

    def _backoff(self, run: Run) -> float:
        """Seconds until the next attempt, from the payload's backoff options or else the worker's settings."""
        options = self._options(run)
        base = options.backoff_base or self._settings.backoff_base
        cap = options.backoff_cap or self._settings.backoff_cap
        return full_jitter(run.job.attempt - 1, base=base, cap=cap, random=self._random)

    def _options(self, run: Run) -> JobOptions:
        kind, _ = self._handlers[run.row["name"], run.row["payload_version"]]
        return kind.options


def _write_line(outcome: Outcome, error: Exception | None, fields: Mapping[str, Any]) -> None:
    """Write the one log line of the attempt, with a traceback unless the error is a `HoldfastError`."""
    if error is None:
        log.info("job_finished", **fields)
        return
    write = {"dead": log.error, "postponed": log.info}.get(outcome, log.warning)
    trace = None if isinstance(error, HoldfastError) else error
    write("job_finished", **fields, error=f"{type(error).__name__}: {error}", exc_info=trace)
