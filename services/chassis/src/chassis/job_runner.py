"""Running jobs in a worker: claim, heartbeat, retry, bury, hand back. `chassis.jobs` says what a job is."""

import asyncio
import math
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import asyncpg
from pydantic import ValidationError

from chassis import deadlines
from chassis.errors import HoldfastError, LeaseLost, PermanentJobError
from chassis.hot_metrics import Counter, Histogram
from chassis.job_completion import Completions, tell
from chassis.job_decisions import NOTHING, Claim, Outcome, decide_claim, judge
from chassis.job_tending import Tending
from chassis.jobs import DRIVER_STATEMENTS, JobPayload, RunningJob, wakeup_channel
from chassis.logging import bind_to_task, canonical_line, debugging_for, get_logger
from chassis.pooling import Database
from chassis.retries import full_jitter
from chassis.settings import JobSettings
from chassis.telemetry import SpanKind, record_failure, span
from chassis.wakeup import BUGS, HOLD_SECONDS, OUTAGES, Wakeups, is_set_within, wait_or_poll

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
# The same by their labels, remembered: looking one up costs a job as much as its place in a claim.
_processed, _duration_seconds = cache(processed.labels), cache(duration_seconds.labels)

# A handler takes the payload type it is registered under: a relation that a Mapping's type cannot express.
type Handler = Callable[[RunningJob, Any], Awaitable[None]]

OLDEST_EVERY = 4
"""One claim in so many takes the longest due first, whatever their priority: a quarter of the capacity is nobody's to
take away, so that no priority can starve another."""
RETRY_SECONDS = 0.2
"""Between two tries while the database is away: many within a lease, which is how long ends are worth trying."""
_CANCELLATION_SECONDS = 2.0
"""What a cancelled handler gets to clean up; the fencing token makes it harmless if it takes longer."""


type _Ending = Literal["lease_lost", "handed_back", "timed_out"]


@dataclass(eq=False, slots=True, kw_only=True)
class _Run:
    """A claimed job in this process. `lease_until` is on the monotonic clock, from before the lease was asked for.

    `overdue_at` is on the event loop's clock: when its time limit is over, while its handler is at work.
    """

    job: RunningJob
    row: asyncpg.Record
    lease_until: float
    overdue_at: float = math.inf
    task: asyncio.Task[None] | None = None
    ended_by: _Ending | None = None

    def end(self, reason: _Ending) -> None:
        """Cancel the handler. One that is committing the end of its job just now is left to the database, unless it
        takes too long.
        """
        may_be_cancelled = not self.job.is_finishing or reason == "timed_out"
        if self.task is not None and self.ended_by is None and may_be_cancelled:
            self.ended_by = reason
            self.task.cancel()

    def give_up(self) -> None:
        """Cancel a handler again that is still cleaning up: a process that stops waits for nobody's farewell."""
        if self.task is not None and self.ended_by is not None:
            self.task.cancel()


class _TimeLimits:
    """Ends handlers whose time is up. One timer, for the next that may be, watches them all."""

    def __init__(self) -> None:
        self._runs: set[_Run] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, run: _Run, seconds: float) -> None:
        run.overdue_at = asyncio.get_running_loop().time() + seconds
        self._runs.add(run)
        if self._timer is None or run.overdue_at < self._timer.when():
            self._look_at(run.overdue_at)

    def leave(self, run: _Run) -> None:
        self._runs.discard(run)

    def _look_at(self, instant: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(instant, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for run in [run for run in self._runs if run.overdue_at <= now]:
            self._runs.discard(run)
            run.end("timed_out")
        if self._runs:
            self._look_at(min(run.overdue_at for run in self._runs))


class JobRunner:
    """Claims and runs the jobs of one queue in this process, `settings.concurrency` at once.

    `handlers` maps payload types of this queue to `async def handler(job, payload)`. A handler that returns completes
    its job; one that raises `PermanentJobError` buries it; any other exception is tried again, at the earliest after
    the `retry_after` of an `ApiError`. A handler must await often: one that blocks the loop stalls its own heartbeat.

    A job whose lease ran out may have killed its process, so it runs alone from then on: the others are let finish
    first and none is started beside it.
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
        self._completions = Completions[_Run]()
        self._tending = Tending(database, queue=self._queue, on_dead=_count_dead)
        self._time_limits = _TimeLimits()
        self._runs: set[_Run] = set()
        self._alone: _Run | None = None  # the suspect that was started last
        self._has_suspects = False
        self._is_draining = False
        self._claims = 0
        self._pick_up_seconds = pick_up_seconds.labels(self._queue)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set; then let jobs finish for `drain_timeout` seconds and hand the others back."""
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(self._every(self._settings.lease / 3, self._heartbeat))
            tending = tasks.create_task(self._every(self._settings.lease / 5, self._tend))
            wake = tasks.create_task(self._wake_when(stopping))
            await self._take_turns(stopping, tasks)
            tending.cancel()
            wake.cancel()
            self._is_draining = True
            ending = tasks.create_task(self._end_jobs(tasks))
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
        """The database may be away for a while: jobs wait there, and leases decide who goes on with them."""
        try:
            yield
        except BUGS:
            raise
        except OUTAGES as error:
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
            except BUGS:
                raise
            except OUTAGES as error:
                log.warning("job_database_failed", queue=self._queue, error=type(error).__name__)
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
            claim = self._decide_claim(ending=len(finished)) if may_be_more else NOTHING
            if finished or claim.count:
                claimed = await self._take_turn(connection, finished, claim, tasks)
                if claim.suspects:
                    self._has_suspects = claimed > 0
                elif claim.count:
                    may_be_more = claimed == claim.count
            elif not await is_set_within(self._woken, HOLD_SECONDS):
                return

    def _decide_claim(self, *, ending: int) -> Claim:
        if self._is_draining:
            return NOTHING
        return decide_claim(
            unended=len(self._runs) - ending,
            concurrency=self._settings.concurrency,
            has_suspects=self._has_suspects,
            is_suspect_running=self._alone in self._runs,
        )

    async def _take_turn(
        self,
        connection: asyncpg.Connection,
        finished: dict[_Run, asyncio.Future[bool]],
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
                **_tokens(finished),
                queue=self._queue,
                worker=self._worker,
                lease=self._settings.lease,
                count=claim.count,
                suspects=claim.suspects,
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
        run = _Run(job=job, row=row, lease_until=lease_until)
        self._runs.add(run)
        self._alone = run if claim.suspects else None
        run.task = tasks.create_task(self._execute(run), name=f"job-{job.id}")
        self._pick_up_seconds.observe(row["waited"])

    async def _execute(self, run: _Run) -> None:
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

    def _free_slot(self, run: _Run) -> None:
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

    async def _attempt(self, run: _Run) -> tuple[Outcome, Exception | None]:
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

    async def _handle(self, run: _Run) -> None:
        payload, handler = self._load(run.row)
        limit, left = payload.options.time_limit, run.row["seconds_left"]
        self._time_limits.watch(run, limit)
        try:
            with deadlines.deadline(limit if left is None else min(limit, left)):
                await handler(run.job, payload)
        finally:
            self._time_limits.leave(run)

    def _timed_out(self, run: _Run) -> TimeoutError:
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

    async def _complete(self, run: _Run) -> Outcome:
        is_ended = self._completions.complete(run)
        self._woken.set()
        return "completed" if await is_ended else "lease_lost"

    async def _fail(self, run: _Run, error: Exception) -> Outcome:
        verdict = judge(run.job, error, lambda: self._delay(run))
        is_ours = False  # and so it stays in an outage: the lease runs out, and the job is run again
        async with self._tolerating_outages(), self._database.driver() as connection:
            values = {"id": run.job.id, "attempt": run.job.attempt, **verdict.values}
            is_ours = bool(await DRIVER_STATEMENTS[verdict.statement].fetch(connection, **values))
        return verdict.outcome if is_ours else "lease_lost"

    def _delay(self, run: _Run) -> float:
        """Seconds until another attempt, by the job's own backoff or the worker's."""
        options = self._handlers[run.row["name"], run.row["payload_version"]][0].options
        base = options.backoff_base or self._settings.backoff_base
        cap = options.backoff_cap or self._settings.backoff_cap
        return full_jitter(run.job.attempt - 1, base=base, cap=cap, random=self._uniform)

    async def _heartbeat(self) -> None:
        """Extend the leases of this process, and cancel the handlers of jobs that are no longer its own."""
        runs, lease_until = tuple(self._runs), time.monotonic() + self._settings.lease
        if not runs:
            return
        try:
            held = await self._extend(runs)
        except OUTAGES:
            _end_expired(runs, time.monotonic())
            raise
        for run in runs:
            if (run.job.id, run.job.attempt) in held:
                run.lease_until = lease_until
            else:
                run.end("lease_lost")

    async def _extend(self, runs: Sequence[_Run]) -> set[tuple[int, int]]:
        async with self._database.driver() as connection:
            rows = await DRIVER_STATEMENTS["heartbeat"].fetch(connection, **_tokens(runs), lease=self._settings.lease)
        return {(row["id"], row["attempt"]) for row in rows}

    async def _tend(self) -> None:
        self._has_suspects = await self._tending.tend()
        if self._has_suspects:
            self._woken.set()

    async def _drain(self) -> None:
        await _wait_for(self._runs, seconds=self._drain_timeout)
        unfinished = tuple(self._runs)
        if not unfinished:
            return
        for run in unfinished:
            run.end("handed_back")
        await _wait_for(unfinished, seconds=_CANCELLATION_SECONDS)
        async with self._tolerating_outages(), self._database.driver() as connection:
            handed_back = await DRIVER_STATEMENTS["hand_back"].fetch(connection, **_tokens(unfinished))
            log.warning("jobs_handed_back", queue=self._queue, job_ids=[row["id"] for row in handed_back])
        for run in unfinished:
            run.give_up()


async def _wait_for(runs: Collection[_Run], *, seconds: float) -> None:
    tasks = [run.task for run in runs if run.task is not None]
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)


def _tokens(runs: Iterable[_Run]) -> dict[str, object]:
    jobs = [run.job for run in runs]
    return {"ids": [job.id for job in jobs], "attempts": [job.attempt for job in jobs]}


def _end_expired(runs: Iterable[_Run], now: float) -> None:
    for run in runs:
        if now >= run.lease_until:
            run.end("lease_lost")


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
