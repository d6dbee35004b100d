"""An object that ends its own process with SIGKILL, exactly where a test has armed it; and what it is put around.

It is put around what a composition root is given anyway: the database, the client of the streams, the handlers, the
answers of an API. The services know nothing of it, so that in production there is nothing to switch on.

What can be seen of a process from outside are its commits, what it sends, and what it acknowledges. To die anywhere
between two of these is to die at one and the same point, so the points stand between them.
"""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import asyncpg
from chassis.app.worker import WorkerResources
from chassis.events.consumer import Consumer
from chassis.events.inbox import STATEMENTS as INBOX
from chassis.events.sending import SCRIPT
from chassis.jobs import RunningJob
from chassis.jobs.schedules import Schedule
from chassis.jobs.statements import DRIVER_STATEMENTS as JOBS
from chassis.jobs.statements import STATEMENTS as JOB_STATEMENTS
from chassis.pooling import Database, Session, after_commit
from chassis.pooling.session import _AFTER_COMMIT
from redis.asyncio import Redis
from sqlalchemy import text

UNDER_WAY_SECONDS = 0.3
"""From the claim of a job that calls somebody until the call has left: ten times what it takes here. Whoever is called
is slow then, so that no answer has come."""
CALLING = frozenset(
    {"request_payment", "settle_payment", "charge_payment", "make_refund", "send_mail", "deliver_webhook"}
)
ANSWERED_SECONDS = 0.02  # until the loop has written an answer to its socket
CLAIM_AFTER = 1.5  # seconds until a silent consumer's entries are taken over; 15 otherwise

_ATTEMPT = " attempt"
"""A transaction that records an attempt before its call. Until it has committed, nothing has happened since the claim,
and that has a point already."""
_STEPS = "crash_steps"  # where a session has the names of the steps that its transaction takes
_OF_STATEMENT = {
    id(INBOX["bury"]): "dead event",
    id(INBOX["take_replayable"]): "dead event taken",
    id(INBOX["forget_dead"]): "dead event forgotten",
    id(JOB_STATEMENTS["replay"]): "jobs replay",
}
"""Transactions of the chassis' own that one of their statements tells apart."""
_OF_RUNNER = {JOBS[name].sql: f"jobs {name.replace('_', ' ')}" for name in ("retry", "bury", "reap", "hand_back")}
"""What the job runner commits by itself. A claim is not among them, since `claimed` follows it; nor is what completes
a job, since nothing follows that and `jobs returned` comes before it."""
_HAS_WRITTEN = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"

_job: ContextVar[RunningJob | None] = ContextVar("job", default=None)
_written_by: ContextVar[list[str] | None] = ContextVar("written_by", default=None)


class CrashPoints:
    """`<program>.armed` in the folder says where to die, at which arrival: `1 place_order committed`. It becomes
    `<program>.reached`, with the process id, at that moment. Whatever is passed is noted in `<program>.passed`.
    """

    def __init__(self, folder: Path, program: str) -> None:
        self._armed = folder / f"{program}.armed"
        self._reached = folder / f"{program}.reached"
        self._passed = folder / f"{program}.passed"
        self._known: set[str] = set()
        self._arrivals = 0

    @staticmethod
    def arm(folder: Path, program: str, point: str, *, arrival: int = 1) -> Path:
        """The file that will be there once the program has died."""
        reached = folder / f"{program}.reached"
        reached.unlink(missing_ok=True)
        draft = folder / f"{program}.draft"
        draft.write_text(f"{arrival} {point}")
        draft.rename(folder / f"{program}.armed")
        return reached

    def reach(self, point: str) -> None:
        if point not in self._known:
            self._known.add(point)
            with self._passed.open("a") as passed:
                passed.write(f"{point}\n")
        try:
            arrival, _, armed = self._armed.read_text().partition(" ")
        except FileNotFoundError:
            self._arrivals = 0
            return
        if armed == point:
            self._arrivals += 1
            if self._arrivals == int(arrival):
                self._die()

    def _die(self) -> None:
        self._armed.write_text(str(os.getpid()))
        self._armed.rename(self._reached)
        os.kill(os.getpid(), signal.SIGKILL)


class CrashingDatabase:
    """A `Database` each of whose transactions that write has a point before and one after its COMMIT.

    `name` gives a transaction's name by the function that opened it. Without it, a transaction has the name of the job,
    event, schedule or statement that a worker opened it for.
    """

    def __init__(
        self, database: Database, points: CrashPoints, *, name: Callable[[CodeType], str] | None = None
    ) -> None:
        self._database = database
        self._points = points
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def transaction(self) -> Any:
        return self._transaction(sys._getframe(1).f_code)

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Any]:
        async with self._database.driver() as connection:
            yield _CrashingConnection(connection, self._points)

    @asynccontextmanager
    async def _transaction(self, caller: CodeType) -> AsyncIterator[Session]:
        async with self._database.transaction() as session:
            statements = _watch_statements(session)
            yield session
            steps = self._steps(session, caller, statements)
            if steps and await session.scalar(text(_HAS_WRITTEN)):
                for step in steps:
                    self._before(step, session)

    def _before(self, step: str, session: Session) -> None:
        if not step.endswith(_ATTEMPT):
            self._points.reach(f"{step} uncommitted")
        after_commit(session, partial(self._after, step))

    def _after(self, step: str) -> None:
        self._points.reach(f"{step} committed")
        if (written := _written_by.get()) is not None:
            written.append(step)

    def _steps(self, session: Session, caller: CodeType, statements: Sequence[int]) -> Sequence[str]:
        """Several for a transaction that handles several events."""
        if self._name is not None:
            return [self._name(caller)]
        if (job := _job.get()) is not None:
            part = " not run" if caller.co_name == "not_run" else _ATTEMPT
            return [job.name if job.is_finishing else f"{job.name}{part}"]
        named = [_OF_STATEMENT[statement] for statement in statements if statement in _OF_STATEMENT]
        return named[:1] or session.info.get(_STEPS, [])


class _CrashingConnection:
    """The driver's connection: each statement commits by itself."""

    def __init__(self, connection: asyncpg.Connection, points: CrashPoints) -> None:
        self._connection = connection
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetch(self, sql: str, *values: Any) -> Any:
        step = _OF_RUNNER.get(sql)
        if step:
            self._points.reach(f"{step} uncommitted")
        rows = await self._connection.fetch(sql, *values)
        if step and rows:
            self._points.reach(f"{step} committed")
        return rows


def _watch_statements(session: Session) -> list[int]:
    """The identities of the statements that the session executes from now on."""
    seen: list[int] = []

    def watched(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(statement: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(id(statement))
            return await method(statement, *args, **kwargs)

        return call

    for name in ("execute", "scalar", "scalars"):
        setattr(session, name, watched(getattr(session, name)))
    return seen


def crashing_streams(redis: Redis, points: CrashPoints) -> Redis:
    """The same client, with points around what a relay publishes and after what a consumer acknowledges."""
    execute = redis.execute_command

    async def crossing(*command: Any, **options: Any) -> Any:
        is_relay = command[:2] == ("EVALSHA", _PUBLISH)
        is_publishing = is_relay and len(command) > _WITHOUT_EVENTS
        if is_publishing:
            points.reach("relay unpublished")
        answer = await execute(*command, **options)
        if is_relay and answer == [b"forgotten"]:
            points.reach("relay forgotten")
        elif is_publishing:
            points.reach("relay published")
        elif command[0] == "XACK":
            points.reach("event acknowledged")
        return answer

    redis.execute_command = crossing
    return redis


_PUBLISH = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()  # as Redis names the relay's script
_WITHOUT_EVENTS = 3 + 4 + 5
"""Words of the command that runs it: its name, hash and number of keys; the keys; what comes before
the events."""


@dataclass(frozen=True, kw_only=True)
class CrashingResources(WorkerResources):
    """What a worker's composition root is given: its parts have points where they meet the service's code."""

    points: CrashPoints

    @classmethod
    def around(cls, resources: WorkerResources, points: CrashPoints) -> "CrashingResources":
        given = {field.name: getattr(resources, field.name) for field in fields(resources)}
        given["database"] = CrashingDatabase(resources.database, points)
        given["streams"] = crashing_streams(resources.streams, points)
        return cls(**given, points=points)

    def job_runner(self, handlers, **options):
        return WorkerResources.job_runner(self, {kind: self._job(call) for kind, call in handlers.items()}, **options)

    def consumer(self, streams, handlers):
        return Consumer(
            self.streams,
            self.database,
            self.settings.outbox,
            group=self.settings.service_name,
            streams=streams,
            handlers={kind: self._event(kind.options.type, call) for kind, call in handlers.items()},
            claim_after=CLAIM_AFTER,
        ).run

    def scheduler(self, schedules=()):
        return WorkerResources.scheduler(self, [self._schedule(schedule) for schedule in schedules])

    def _job(self, handler):
        async def run(job, payload):
            self.points.reach(f"{job.name} claimed")
            timer = None
            if job.name in CALLING:
                loop = asyncio.get_running_loop()
                timer = loop.call_later(UNDER_WAY_SECONDS, self.points.reach, f"{job.name} under way")
            token = _job.set(job)
            try:
                await handler(job, payload)
            finally:
                _job.reset(token)
                if timer is not None:
                    timer.cancel()
            if not job.is_finishing:
                self.points.reach("jobs returned")

        return run

    def _event(self, event_type, handler):
        async def on(session, received):
            session.info.setdefault(_STEPS, []).append(event_type)
            await handler(session, received)

        return on

    def _schedule(self, schedule: Schedule) -> Schedule:
        async def run(session):
            session.info[_STEPS] = [f"{self.settings.service_name} {schedule.name}"]
            await schedule.run(session)
            if _AFTER_COMMIT not in session.info:  # it found nothing: what it writes is only that it ran
                del session.info[_STEPS]

        return replace(schedule, run=run)


class CrashingAnswers:
    """ASGI: a point after the answer to each request that has written something."""

    def __init__(self, app: Any, points: CrashPoints) -> None:
        self._app = app
        self._points = points

    async def __call__(self, scope, receive, send):
        written: list[str] = []
        _written_by.set(written)

        async def sending(message):
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                for step in written:
                    asyncio.get_running_loop().call_later(ANSWERED_SECONDS, self._points.reach, f"{step} answered")

        await self._app(scope, receive, sending)
