"""The job runner of a worker claims jobs, runs and ends them, and hands unfinished jobs back when it stops.

The runner works in turns. A turn is one statement that commits the end of finished jobs and claims new ones.
"""

import asyncio
import math
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from chassis.config.settings import JobSettings
from chassis.errors import HoldfastError
from chassis.jobs.claims import Claims
from chassis.jobs.completion import Completions, settle
from chassis.jobs.decisions import NOTHING, Claim
from chassis.jobs.executor import RETRY_SECONDS, Executor
from chassis.jobs.hearing import Hearing
from chassis.jobs.leases import Leases
from chassis.jobs.lookback import oldest_left
from chassis.jobs.metrics import pick_up_seconds
from chassis.jobs.payload import JobPayload
from chassis.jobs.running_job import Handler, RunningJob
from chassis.jobs.runs import Run, tokens
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.jobs.tending import Tending
from chassis.logging import get_logger
from chassis.pooling import Database, Failure, failure_of
from chassis.pooling.wakeup import HOLD_SECONDS, Wakeups, is_set_within, wait_or_poll
from chassis.process.background import Group

log = get_logger(__name__)

OLDEST_EVERY = 4
"""One claim in `OLDEST_EVERY` takes the jobs that have been due longest, whatever their priority. So jobs of a low
priority run, even if jobs of a high priority are always due."""
_CANCELLATION_SECONDS = 2.0
"""The seconds that a cancelled handler has to clean up. Then the worker hands the handler's job back, which makes the
handler's fencing token invalid. So a handler that takes longer cannot end the job."""


class JobRunner:
    """Claims and runs the jobs of one queue in this process, in `settings.concurrency` slots.

    `handlers` maps payload types of this queue to `async def handler(job, payload)`. A handler that returns completes
    its job. A `PermanentJobError` makes the job a dead letter. After any other exception the job is retried with
    backoff. If the exception is an `ApiError` with a `retry_after`, the retry waits at least that long. A handler must
    await often: a handler that blocks the event loop stalls the heartbeat of every job in the process.

    A job whose lease expired is a suspect: the job may have killed the process that ran it. One suspect runs at a time,
    beside the other jobs. A suspect that loses its lease again runs alone: the runner lets all other jobs end first,
    and starts no other job until the suspect has ended.
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
        random: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._settings = settings
        self._drain_timeout = drain_timeout
        self._queue = settings.queue
        if elsewhere := [kind.__name__ for kind in handlers if kind.options.queue != self._queue]:
            raise HoldfastError(
                f"the runner of queue {self._queue} cannot run jobs of other queues: {', '.join(elsewhere)}"
            )
        self._worker = worker or f"{socket.gethostname()}:{os.getpid()}"
        self._wakeups = wakeups
        self._hearing = Hearing(wakeups, self._queue, has_room=self._has_room)
        self._changed = self._hearing.changed
        self._claims_at = math.inf  # monotonic time of the next claim if no wake-up comes before
        self._is_running = False
        self._tending = Tending(database, queue=self._queue, lease=settings.lease)
        self._lookback = self._tending.lookback
        self._leases = Leases(database, queue=self._queue, lease=settings.lease)
        self._runs = self._leases.runs
        self._claims = Claims(settings.concurrency)
        self._claims_made = 0
        self._completions = Completions[Run]()
        self._executor = Executor(
            database, handlers, settings, finish=self._complete, tolerate=self._tolerate, hold=self._hold, random=random
        )
        self._pick_up_seconds = pick_up_seconds.labels(self._queue)

    async def run(self, stopping: asyncio.Event) -> None:
        """Run jobs until `stopping` is set.

        Then wait up to `drain_timeout` seconds until the running jobs end, and hand the unfinished jobs back.
        """
        async with Group() as tasks:
            heartbeat = tasks.start(
                partial(self._every, lambda: self._settings.lease / 3, self._leases.extend), name="heartbeat"
            )
            tending = tasks.start(partial(self._every, lambda: self._tending.pause, self._tend), name="tending")
            wake = tasks.start(partial(self._wake_when, stopping), name="wake")
            self._is_running = True
            await self._take_turns(stopping, tasks)
            self._is_running = False
            tending.cancel()
            wake.cancel()
            self._executor.is_draining = True
            ending = tasks.start(partial(self._end_jobs, tasks), name="ends")
            await self._drain()
            heartbeat.cancel()
            ending.cancel()

    async def _wake_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._changed.set()

    def _has_room(self) -> bool:
        return self._is_running and self._claims.has_room(self._runs, unended=len(self._runs))

    async def _every(self, pause: Callable[[], float], action: Callable[[], Awaitable[None]]) -> None:
        while True:
            async with self._tolerating_outages():
                await action()
            await asyncio.sleep(pause())

    @asynccontextmanager
    async def _tolerating_outages(self) -> AsyncIterator[None]:
        """Log a transient error that the `async with` block raises, and suppress the error.

        An outage loses no job: jobs wait in the database, and the leases decide which worker continues a job.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001  `_tolerate` raises the error again unless it is transient
            self._tolerate(error)

    def _tolerate(self, error: Exception) -> None:
        """Log a transient error, after which the same statement may be tried again. Raise any other error."""
        failure = failure_of(error)
        if failure is Failure.BUG:
            raise error
        if failure is Failure.OUTAGE:
            self._tending.note_outage()
        log.warning("job_database_failed", queue=self._queue, error=type(error).__name__)

    async def _tend(self) -> None:
        self._claims.suspects_due = await self._tending.tend()
        if any(self._claims.suspects_due):
            self._changed.set()

    async def _take_turns(self, stopping: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        """Until `stopping` is set, end the jobs that finish and start the jobs that become due."""
        while not stopping.is_set():
            try:
                async with self._database.driver() as connection:
                    await self._take_turns_while_busy(connection, stopping, tasks)
            except Exception as error:  # noqa: BLE001  `_tolerate` raises the error again unless it is transient
                self._tolerate(error)
                self._completions.give_up(time.monotonic())
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if not stopping.is_set():
                    await wait_or_poll(self._changed, interval=self._settings.poll_interval)

    async def _take_turns_while_busy(
        self, connection: asyncpg.Connection, stopping: asyncio.Event, tasks: asyncio.TaskGroup
    ) -> None:
        """Claim and end jobs on this connection. Return after `HOLD_SECONDS` without work, to free the connection."""
        self._claims.may_be_more = True
        while not stopping.is_set():
            self._changed.clear()
            if self._hearing.take() or time.monotonic() >= self._claims_at:
                self._claims.may_be_more = True
            finished = self._completions.take()
            claim = self._next_claim(ending=len(finished))
            has_work = bool(finished or claim.count)
            if has_work:
                await self._take_turn(connection, finished, claim, tasks)
            self._hearing.pass_on(may_be_more=self._claims.may_be_more)
            if not has_work and not await is_set_within(self._changed, HOLD_SECONDS):
                return

    def _next_claim(self, *, ending: int) -> Claim:
        if self._executor.is_draining:
            return NOTHING
        return self._claims.next(self._runs, unended=len(self._runs) - ending)

    async def _take_turn(
        self,
        connection: asyncpg.Connection,
        finished: dict[Run, asyncio.Future[bool]],
        claim: Claim,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Commit the end of finished jobs and claim new ones, with one statement. Start the claimed jobs."""
        if claim.count:
            self._claims_made += 1
            self._claims_at = time.monotonic() + self._settings.poll_interval
        is_oldest_first = self._claims_made % OLDEST_EVERY == 0
        statement = DRIVER_STATEMENTS["turn_oldest" if is_oldest_first else "turn"]
        began = time.monotonic()
        lease_until, full_looks = began + self._settings.lease, self._lookback.full_looks
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
                lookback=None if claim.suspects else self._lookback.seconds(began),
            )
        except BaseException:
            self._completions.put_back(finished)
            raise
        self._runs.difference_update(finished)
        started = [self._start(row, lease_until, tasks) for row in rows if row["name"] is not None]
        if claim.count:
            self._claims.note(claim, started)
            if (age := oldest_left(claim, started, is_oldest_first=is_oldest_first)) is not None:
                self._lookback.note_claim(age, began=began, full_looks=full_looks)
        try:
            # Let the started jobs run before the finished jobs are reported. If a started job finishes at once, the
            # next statement ends it. PostgreSQL executes the next statement while this process writes the log lines of
            # the finished jobs.
            await asyncio.sleep(0)
        finally:
            settle(finished, lost={(row["id"], row["attempt"]) for row in rows if row["name"] is None})

    def _start(self, row: asyncpg.Record, lease_until: float, tasks: asyncio.TaskGroup) -> Run:
        job = RunningJob(id=row["id"], name=row["name"], attempt=row["attempt"], max_attempts=row["max_attempts"])
        run = Run(job=job, row=row, lease_until=lease_until, claimed_at=time.monotonic())
        self._runs.add(run)
        run.task = tasks.create_task(self._execute(run), name=f"job-{job.id}")
        self._pick_up_seconds.observe(row["waited"])
        return run

    async def _execute(self, run: Run) -> None:
        try:
            outcome = await self._executor.execute(run)
        finally:
            self._free_slot(run)
        if outcome == "lease_lost":
            self._leases.lost.add(run)

    def _complete(self, run: Run) -> asyncio.Future[bool]:
        """Let the next statement commit the job's end. The future yields True if the worker still owned the job."""
        is_ended = self._completions.complete(run)
        self._changed.set()
        return is_ended

    def _hold(self, run: Run, seconds: float) -> None:
        """Claim no job for some seconds, because the dependency of `run` refuses calls for now."""
        self._claims_at = self._claims.hold(seconds)
        self._lookback.note_postponed(run, now=time.monotonic())
        asyncio.get_running_loop().call_later(seconds, self._changed.set)

    def _free_slot(self, run: Run) -> None:
        """Free the slot of a job, unless `_take_turn` freed the slot when it committed the job's end."""
        if run in self._runs:
            self._runs.discard(run)
            self._changed.set()

    async def _end_jobs(self, tasks: asyncio.TaskGroup) -> None:
        """Commit the end of finished jobs until this task is cancelled. Then report the other finished jobs as lost."""
        try:
            await self._take_turns(asyncio.Event(), tasks)
        finally:
            self._completions.give_up(math.inf)

    async def _drain(self) -> None:
        await _wait_for(self._runs, seconds=self._drain_timeout)
        unfinished = tuple(self._runs)
        leaving = [*unfinished, *self._leases.lost]
        if not leaving:
            return
        for run in unfinished:
            run.end("handed_back")
        await _wait_for(unfinished, seconds=_CANCELLATION_SECONDS)
        async with self._tolerating_outages():
            await self._leases.hand_back(leaving)
        for run in unfinished:
            run.give_up()


async def _wait_for(runs: Collection[Run], *, seconds: float) -> None:
    tasks = [run.task for run in runs if run.task is not None]
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
