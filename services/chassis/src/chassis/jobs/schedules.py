"""Schedules: recurring work that one process at a time does. Each schedule has a rule for runs that were missed.

Each schedule has a row in the table `schedule`, with the time of the next run. All workers use the same row. In one
transaction, a worker locks the row, makes the run if the run is due, and stores the time of the next run. So each run
happens once, with any number of workers. If a worker dies during a run, the run stays due.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from prometheus_client import Counter
from sqlalchemy import text

from chassis.logging import bind, get_logger
from chassis.pooling import Database, Session, is_transient, log_after_commit
from chassis.pooling.wakeup import wait_or_poll
from chassis.process.background import Group, log_failure, uncancelled

log = get_logger(__name__)

runs = Counter(
    "schedule_runs",
    "Checks of a schedule by outcome: done, early (not due yet), elsewhere (another process runs it), failed.",
    ["schedule", "outcome"],
)
missed_runs = Counter("schedule_runs_missed", "Runs that no process made in time and that were skipped.", ["schedule"])

type Missed = Literal["skip", "once", "catch_up"]
"""The rule for runs that no process made in time: skip them, make one run for all of them, or make each of them."""

ON_TIME = timedelta(minutes=1)
"""A run that starts up to this much late still counts as made in time, since a roll-out may delay a run by up to a
minute. For a schedule with an interval below two minutes, the limit is half of the interval."""
CHECK_SECONDS = 60.0
"""The longest time between two checks of a schedule. If a process dies during a daily run, another process notices
within this time."""

_DEFINE = text("INSERT INTO schedule (name, next_at) VALUES (:name, now() + :first) ON CONFLICT DO NOTHING")
_IS_DEFINED = text("SELECT EXISTS (SELECT FROM schedule WHERE name = :name)")
_LOCK = text("SELECT next_at, clock_timestamp() AS now FROM schedule WHERE name = :name FOR UPDATE SKIP LOCKED")
_MOVE = text("UPDATE schedule SET next_at = :next_at WHERE name = :name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Recurring work: `run(session)` is called every `every` seconds, each time in a new transaction.

    `run` writes only in this transaction, and makes no network call.

    `missed` is the rule for runs that no process made in time. The default, `once`, suits work that reads the current
    state, where one run does all the work of the missed runs. `catch_up` makes the missed runs one after the other, but
    only the newest `catch_up_limit` of them.
    """

    name: str
    every: float
    run: Callable[[Session], Awaitable[None]]
    missed: Missed = "once"
    catch_up_limit: int = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of a check: whether the schedule runs now, when the next run is due, and how many runs are skipped."""

    is_due: bool
    next_at: datetime
    left_out: int = 0


def plan(schedule: Schedule, *, next_at: datetime, now: datetime) -> Plan:
    """Decide whether a schedule runs now if its next run is due at `next_at`. This is a pure function.

    Due times stay `every` seconds apart, even if a run starts late. If `next_at` is more than `every` seconds ahead,
    this time was stored before the clock was set back, or when the schedule's `every` was longer. In both cases the run
    is due now.
    """
    every = timedelta(seconds=schedule.every)
    if next_at > now + every:
        return Plan(is_due=True, next_at=now + every)
    if now < next_at:
        return Plan(is_due=False, next_at=next_at)
    behind = (now - next_at) // every  # the number of due times after `next_at` that have passed
    newest = next_at + behind * every
    if schedule.missed == "catch_up":
        left_out = max(0, behind + 1 - schedule.catch_up_limit)
        return Plan(is_due=True, next_at=next_at + (left_out + 1) * every, left_out=left_out)
    is_late = now - newest > min(every / 2, ON_TIME)
    is_due = schedule.missed == "once" or not is_late
    return Plan(is_due=is_due, next_at=newest + every, left_out=behind if is_due else behind + 1)


class Scheduler:
    """Runs schedules in a worker. If several workers check a schedule, the worker that locks the schedule's row makes
    the run.

    `random` returns a number from 0 to 1. The first run of a new schedule is due after this fraction of its interval,
    `every`.
    """

    def __init__(
        self, database: Database, schedules: Sequence[Schedule], *, random: Callable[[], float] = random.random
    ) -> None:
        self._database = database
        self._schedules = schedules
        self._random = random

    async def run(self, stopping: asyncio.Event) -> None:
        """Run the schedules until `stopping` is set, and finish the runs under way.

        A run that fails does not end the other schedules.
        """
        async with Group() as tasks:
            for schedule in self._schedules:
                tasks.start(partial(self._repeat, schedule, stopping), name=f"schedule-{schedule.name}")

    async def _repeat(self, schedule: Schedule, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            wait = await self._check(schedule)
            await wait_or_poll(stopping, interval=wait)

    async def _check(self, schedule: Schedule) -> float:
        """Run the schedule if it is due and no other process runs it. Returns the seconds until the next check.

        A run that fails is rolled back and stays due: this or another process tries again within `CHECK_SECONDS`.
        """
        try:
            outcome, wait = await uncancelled(partial(self._attempt, schedule))
        except Exception as error:  # noqa: BLE001  every error of a run is recorded, and the worker goes on
            outcome, wait = "failed", min(schedule.every, CHECK_SECONDS)
            log_failure(log, "schedule_failed", error, is_outage=is_transient(error), schedule=schedule.name)
        runs.labels(schedule.name, outcome).inc()
        return wait

    async def _attempt(self, schedule: Schedule) -> tuple[str, float]:
        async with self._database.transaction() as session:
            return await self._check_in(session, schedule)

    async def _check_in(self, session: Session, schedule: Schedule) -> tuple[str, float]:
        name = {"name": schedule.name}
        row = (await session.execute(_LOCK, name)).one_or_none()
        if row is None and await session.scalar(_IS_DEFINED, name):
            return "elsewhere", min(schedule.every, CHECK_SECONDS)
        if row is None:
            # The first run has a random time in the first interval, so that new schedules do not all run at the same
            # time.
            first = schedule.every * self._random()
            await session.execute(_DEFINE, {**name, "first": timedelta(seconds=first)})
            return "early", min(first, CHECK_SECONDS)
        planned = plan(schedule, next_at=row.next_at, now=row.now)
        if planned.next_at != row.next_at:
            await session.execute(_MOVE, {**name, "next_at": planned.next_at})
        if planned.left_out:
            missed_runs.labels(schedule.name).inc(planned.left_out)
            log_after_commit(
                session, log.warning, "schedule_runs_missed", schedule=schedule.name, left_out=planned.left_out
            )
        if planned.is_due:
            with bind(schedule=schedule.name):
                await schedule.run(session)
        wait = max(0.0, (planned.next_at - row.now).total_seconds())
        return "done" if planned.is_due else "early", min(wait, CHECK_SECONDS)
