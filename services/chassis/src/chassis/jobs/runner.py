"""Running jobs in a worker: claim, heartbeat, retry, bury, hand back. `chassis.jobs` says what a job is."""

import asyncio
import math
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
from prometheus_client import Counter, Histogram
from pydantic import ValidationError

from chassis.config.settings import JobSettings
from chassis.errors import HoldfastError, LeaseLost, PermanentJobError
from chassis.jobs import DRIVER_STATEMENTS, JobPayload, RunningJob, wakeup_channel
from chassis.jobs.completion import Completions, tell
from chassis.jobs.decisions import NOTHING, Claim, Due, Outcome, decide_claim, judge
from chassis.jobs.runs import Run, TimeLimits, end_expired, tokens
from chassis.jobs.tending import SuspectsDue, Tending
from chassis.logging import bind_to_task, canonical_line, debugging_for, get_logger
from chassis.pooling import Database, Failure, failure_of, is_transient
from chassis.pooling.wakeup import HOLD_SECONDS, Wakeups, is_set_within, wait_or_poll
from chassis.process.background import Group
from chassis.retries import deadlines, full_jitter
from chassis.telemetry import SpanKind, record_failure, span

log = get_logger(__name__)

processed = Counter("jobs_processed", "Attempts that ended, by outcome.", ["queue", "job", "outcome"])
duration_seconds = Histogram(
    "job_duration_seconds",
    "Time from claim to the end of an attempt.",
    ["queue", "job"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
pick_up_seconds = Histogram(
    "job_pick_up_seconds",
    "Time from when a job was due until it was claimed.",
    ["queue"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)

# A handler takes the payload type it is registered under: a relation that a Mapping's type cannot express.
type Handler = Callable[[RunningJob, Any], Awaitable[None]]

OLDEST_EVERY = 4
"""One claim in so many takes the longest due first, whatever their priority: a quarter of the capacity is nobody's to
take away, so that no priority can starve another."""
RETRY_SECONDS = 0.2
"""Between two tries while the database is away: many within a lease, which is how long ends are worth trying."""
_CANCELLATION_SECONDS = 2.0
"""What a cancelled handler gets to clean up; the fencing token makes it harmless if it takes longer."""


class JobRunner:
    """Claims and runs the jobs of one queue in this process, `settings.concurrency` at once.

    `handlers` maps payload types of this queue to `async def handler(job, payload)`. A handler that returns completes
    its job; one that raises `PermanentJobError` buries it; any other exception is tried again, at the earliest after
    the `retry_after` of an `ApiError`. A handler must await often: one that blocks the loop stalls its own heartbeat.

    A job whose lease ran out may have killed its process: of such suspects one runs at a time, beside the others. One
    that loses its lease again runs alone: the others are let finish first and none is started beside it.
    """

    def __init__(
        self,
        database: Database,
        handlers: Mapping[type[JobPayload], Handler],
        settings: JobSettings,
        *,
        wakeups: Wakeups,
        drain_timeout: float,
        worker: str | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._handlers = {(kind.options.name, kind.options.version): (kind, call) for kind, call in handlers.items()}
        self._settings = settings
        self._drain_timeout = drain_timeout
        self._queue = settings.queue
        if elsewhere := [kind.__name__ for kind in handlers if kind.options.queue != self._queue]:
            raise HoldfastError(f"a worker of queue {self._queue} would never see {', '.join(elsewhere)}")
        self._worker = worker or f"{socket.gethostname()}:{os.getpid()}"
        self._uniform = uniform
        self._woken = wakeups.subscribe(wakeup_channel(self._queue))
        self._completions = Completions[Run]()
        self._tending = Tending(database, queue=self._queue, lease=settings.lease, on_dead=_count_dead)
        self._time_limits = TimeLimits()
        self._runs: set[Run] = set()
        self._suspect: tuple[Run, Claim] | None = None  # the one that was started last, and how it was claimed
        self._suspects_due = SuspectsDue(beside_others=False, alone=False)
        self._is_others_turn = False
        self._lost: set[Run] = set()  # ended without a lease: to be handed back if no other worker has them
        self._is_draining = False
        self._claims = 0
        self._pick_up_seconds = pick_up_seconds.labels(self._queue)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set; then let jobs finish for `drain_timeout` seconds and hand the others back."""
        async with Group() as tasks:
            beating = tasks.start(partial(self._every, self._settings.lease / 3, self._heartbeat), name="heartbeat")
            tending = tasks.start(partial(self._every, self._settings.lease / 5, self._tend), name="tending")
            wake = tasks.start(partial(self._wake_when, stopping), name="wake")
            await self._take_turns(stopping, tasks)
            tending.cancel()
            wake.cancel()
            self._is_draining = True
            ending = tasks.start(partial(self._end_jobs, tasks), name="ends")
            await self._drain()
            beating.cancel()
            ending.cancel()

    async def _wake_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._woken.set()

    async def _every(self, interval: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            async with self._tolerating_outages():
                await action()
            await asyncio.sleep(interval)

    @asynccontextmanager
    async def _tolerating_outages(self) -> AsyncIterator[None]:
        """Leave the block in an outage: jobs wait in the database, and leases decide which worker goes on with them."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  it is raised again if it is no outage
            self._tolerate(error)

    def _tolerate(self, error: Exception) -> None:
        """Log an error after which the same is to be tried again; raise any other."""
        failure = failure_of(error)
        if failure is Failure.BUG:
            raise error
        if failure is Failure.OUTAGE:
            self._tending.note_outage()
        log.warning("job_database_failed", queue=self._queue, error=type(error).__name__)

    async def _end_jobs(self, tasks: asyncio.TaskGroup) -> None:
        """Until cancelled. What waits then has not ended: it is handed back, or its lease runs out."""
        try:
            await self._take_turns(asyncio.Event(), tasks)
        finally:
            self._completions.give_up(math.inf)

    async def _take_turns(self, stopping: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        """End jobs as they finish and start jobs as they come, until stopped."""
        while not stopping.is_set():
            try:
                async with self._database.driver() as connection:
                    await self._take_turns_while_busy(connection, stopping, tasks)
            except Exception as error:  # noqa: BLE001  it is raised again if it is no outage
                self._tolerate(error)
                self._completions.give_up(time.monotonic())
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if not stopping.is_set():
                    await wait_or_poll(self._woken, interval=self._settings.poll_interval)

    async def _take_turns_while_busy(
        self, connection: asyncpg.Connection, stopping: asyncio.Event, tasks: asyncio.TaskGroup
    ) -> None:
        """Until nothing happens for `HOLD_SECONDS`: then the connection is given back."""
        may_be_more = True
        while not stopping.is_set():
            if self._woken.is_set():
                self._woken.clear()
                may_be_more = True
            finished = self._completions.take()
            claim = self._decide_claim(ending=len(finished), may_be_more=may_be_more)
            if finished or claim.count:
                claimed = await self._take_turn(connection, finished, claim, tasks)
                if claim.suspects:
                    self._is_others_turn = claimed > 0
                    if not claimed:
                        name = "alone" if claim.alone else "beside_others"
                        self._suspects_due = self._suspects_due._replace(**{name: False})
                elif claim.count:
                    self._is_others_turn = False
                    may_be_more = claimed == claim.count
            elif not await is_set_within(self._woken, HOLD_SECONDS):
                return

    def _decide_claim(self, *, ending: int, may_be_more: bool) -> Claim:
        if self._is_draining:
            return NOTHING
        suspect, claim = self._suspect or (None, None)
        return decide_claim(
            unended=len(self._runs) - ending,
            concurrency=self._settings.concurrency,
            due=Due(
                others=may_be_more,
                suspects=self._suspects_due.beside_others,
                lone_suspects=self._suspects_due.alone,
            ),
            running=claim if suspect in self._runs else None,
            is_others_turn=self._is_others_turn,
        )

    async def _take_turn(
        self,
        connection: asyncpg.Connection,
        finished: dict[Run, asyncio.Future[bool]],
        claim: Claim,
        tasks: asyncio.TaskGroup,
    ) -> int:
        """End these and start as many as are claimed."""
        if claim.count:
            self._claims += 1
        statement = DRIVER_STATEMENTS["turn_oldest" if self._claims % OLDEST_EVERY == 0 else "turn"]
        lease_until = time.monotonic() + self._settings.lease
        try:
            rows = await statement.fetch(
                connection,
                **tokens(finished),
                queue=self._queue,
                worker=self._worker,
                lease=self._settings.lease,
                count=claim.count,
                suspects=claim.suspects,
                alone=claim.alone,
            )
        except BaseException:
            self._completions.put_back(finished)
            raise
        self._runs.difference_update(finished)
        claimed = [row for row in rows if row["name"] is not None]
        for row in claimed:
            self._start(row, claim, lease_until, tasks)
        try:
            # The jobs just started come first. So the server has the next turn, with those that end at once, while the
            # lines of these are written.
            await asyncio.sleep(0)
        finally:
            tell(finished, lost={(row["id"], row["attempt"]) for row in rows if row["name"] is None})
        return len(claimed)

    def _start(self, row: asyncpg.Record, claim: Claim, lease_until: float, tasks: asyncio.TaskGroup) -> None:
        job = RunningJob(id=row["id"], name=row["name"], attempt=row["attempt"], max_attempts=row["max_attempts"])
        run = Run(job=job, row=row, lease_until=lease_until)
        self._runs.add(run)
        if claim.suspects:
            self._suspect = run, claim
        run.task = tasks.create_task(self._execute(run), name=f"job-{job.id}")
        self._pick_up_seconds.observe(row["waited"])

    async def _execute(self, run: Run) -> None:
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
            try:
                outcome, error = await self._attempt(run)
            finally:
                self._free_slot(run)
            if outcome == "lease_lost":
                self._lost.add(run)
            elapsed = time.perf_counter() - started
            processed.labels(self._queue, job.name, outcome).inc()
            duration_seconds.labels(self._queue, job.name).observe(elapsed)
            line.update(
                queue=self._queue,
                outcome=outcome,
                duration_ms=round(elapsed * 1000, 1),
                waited_ms=round(run.row["waited"] * 1000, 1),
            )
            _write_line(outcome, error, line)
            if error is not None:
                record_failure(current, error)

    def _free_slot(self, run: Run) -> None:
        """Of one whose end no turn has committed."""
        if run in self._runs:
            self._runs.discard(run)
            self._woken.set()

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
            if run.ended_by != "timed_out":
                return run.ended_by, None
            error = self._timed_out(run)
        except LeaseLost as lost:
            return "lease_lost", lost
        except Exception as raised:  # noqa: BLE001  the edge of a job: whatever it raises is judged and recorded
            error = raised
        if run.job.is_complete:
            return "completed", error
        run.job.is_finishing = True
        return await (self._complete(run) if error is None else self._fail(run, error)), error

    async def _handle(self, run: Run) -> None:
        payload, handler = self._load(run.row)
        limit, left = payload.options.time_limit, run.row["seconds_left"]
        self._time_limits.watch(run, limit)
        try:
            with deadlines.deadline(limit if left is None else min(limit, left)):
                await handler(run.job, payload)
        finally:
            self._time_limits.leave(run)

    def _timed_out(self, run: Run) -> TimeoutError:
        if run.task is not None:
            run.task.uncancel()  # it goes on: the attempt's end is still to be recorded
        options = self._handlers[run.row["name"], run.row["payload_version"]][0].options
        return TimeoutError(f"not done within its time limit of {options.time_limit:g} s")

    def _load(self, row: asyncpg.Record) -> tuple[JobPayload, Handler]:
        """The payload and its handler. Raises `PermanentJobError` when no further attempt can change that."""
        if row["seconds_left"] is not None and row["seconds_left"] <= 0:
            deadlines.deadline_exceeded.inc()
            raise PermanentJobError("its deadline passed before it was started")
        kind, handler = self._handlers.get((row["name"], row["payload_version"]), (None, None))
        if kind is None or handler is None:
            raise PermanentJobError(f"nothing here runs {row['name']} version {row['payload_version']}")
        try:
            return kind.model_validate_json(row["payload"]), handler
        except ValidationError as error:
            raise PermanentJobError(f"its payload is not a {kind.__name__}: {error}") from error

    async def _complete(self, run: Run) -> Outcome:
        is_ended = self._completions.complete(run)
        self._woken.set()
        return "completed" if await is_ended else "lease_lost"

    async def _fail(self, run: Run, error: Exception) -> Outcome:
        """Record it, again and again in an outage, as long as the lease lasts and the worker does not stop."""
        verdict = judge(run.job, error, lambda: self._delay(run))
        values = {"id": run.job.id, "attempt": run.job.attempt, **verdict.values}
        while True:
            try:
                async with self._database.driver() as connection:
                    is_ours = await DRIVER_STATEMENTS[verdict.statement].fetch(connection, **values)
            except Exception as failure:  # noqa: BLE001  it is raised again if it is no outage
                self._tolerate(failure)
            else:
                return verdict.outcome if is_ours else "lease_lost"
            if self._is_draining or time.monotonic() >= run.lease_until:
                return "lease_lost"
            await asyncio.sleep(RETRY_SECONDS)

    def _delay(self, run: Run) -> float:
        """Seconds until another attempt, by the job's own backoff or the worker's."""
        options = self._handlers[run.row["name"], run.row["payload_version"]][0].options
        base = options.backoff_base or self._settings.backoff_base
        cap = options.backoff_cap or self._settings.backoff_cap
        return full_jitter(run.job.attempt - 1, base=base, cap=cap, random=self._uniform)

    async def _heartbeat(self) -> None:
        """Extend the leases of this process, and cancel the handlers of jobs that are no longer its own."""
        runs, lost, lease_until = tuple(self._runs), tuple(self._lost), time.monotonic() + self._settings.lease
        if not runs and not lost:
            return
        try:
            held = await self._extend(runs, handing_back=lost)
        except Exception as error:
            if is_transient(error):
                end_expired(runs, time.monotonic())
            raise
        self._lost.difference_update(lost)
        for run in runs:
            if (run.job.id, run.job.attempt) in held:
                run.lease_until = lease_until
            else:
                run.end("lease_lost")

    async def _extend(self, runs: Sequence[Run], *, handing_back: Sequence[Run]) -> set[tuple[int, int]]:
        """The ids and attempts that are still ours. What was lost in an outage may be nobody's, and is given back."""
        async with self._database.driver() as connection:
            if handing_back:
                await DRIVER_STATEMENTS["hand_back"].fetch(connection, **tokens(handing_back))
            rows = await DRIVER_STATEMENTS["heartbeat"].fetch(connection, **tokens(runs), lease=self._settings.lease)
        return {(row["id"], row["attempt"]) for row in rows}

    async def _tend(self) -> None:
        self._suspects_due = await self._tending.tend()
        if any(self._suspects_due):
            self._woken.set()

    async def _drain(self) -> None:
        await _wait_for(self._runs, seconds=self._drain_timeout)
        unfinished = tuple(self._runs)
        leaving = unfinished + tuple(self._lost)
        if not leaving:
            return
        for run in unfinished:
            run.end("handed_back")
        await _wait_for(unfinished, seconds=_CANCELLATION_SECONDS)
        async with self._tolerating_outages(), self._database.driver() as connection:
            handed_back = await DRIVER_STATEMENTS["hand_back"].fetch(connection, **tokens(leaving))
            log.warning("jobs_handed_back", queue=self._queue, job_ids=[row["id"] for row in handed_back])
        for run in unfinished:
            run.give_up()


async def _wait_for(runs: Collection[Run], *, seconds: float) -> None:
    tasks = [run.task for run in runs if run.task is not None]
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)


def _count_dead(queue: str, job: str) -> None:
    processed.labels(queue, job, "dead").inc()


def _write_line(outcome: Outcome, error: Exception | None, fields: Mapping[str, Any]) -> None:
    """The attempt's canonical line. The traceback goes along where nobody raised the error on purpose."""
    if error is None:
        log.info("job_finished", **fields)
        return
    write = log.error if outcome == "dead" else log.warning
    trace = None if isinstance(error, HoldfastError) else error
    write("job_finished", **fields, error=f"{type(error).__name__}: {error}", exc_info=trace)
