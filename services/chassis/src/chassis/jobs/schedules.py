"""Schedules: work that recurs, by one process at a time, and what becomes of runs that nobody made.

When a schedule runs next is a row that all workers share. Whoever locks it runs what is due and moves it on, in one
transaction: a run happens once, however many workers there are, and one that dies in it leaves it due.
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
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.logging import bind, get_logger
from chassis.pooling import Database, is_transient, log_after_commit
from chassis.pooling.wakeup import wait_or_poll
from chassis.process.background import Group, uncancelled

log = get_logger(__name__)

runs = Counter(
    "schedule_runs",
    "Looks by outcome: done, early (nothing was due), elsewhere (another process has it), failed.",
    ["schedule", "outcome"],
)
missed_runs = Counter("schedule_runs_missed", "Runs that were left out.", ["schedule"])

type Missed = Literal["skip", "once", "catch_up"]
"""What becomes of runs that no process made in time: none is made up for, one for all of them, or each of them."""

ON_TIME = timedelta(minutes=1)
"""How late a run may start and not count as missed, at most; half of `every` where that is less. A roll-out takes no
longer."""
LOOK_SECONDS = 60.0
"""The longest time between two looks: how long the next process takes to notice that one died in a daily run."""

_DEFINE = text("INSERT INTO schedule (name, next_at) VALUES (:name, now() + :first) ON CONFLICT DO NOTHING")
_IS_DEFINED = text("SELECT EXISTS (SELECT FROM schedule WHERE name = :name)")
_LOCK = text("SELECT next_at, clock_timestamp() AS now FROM schedule WHERE name = :name FOR UPDATE SKIP LOCKED")
_MOVE = text("UPDATE schedule SET next_at = :next_at WHERE name = :name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`run(session)` every `every` seconds, in a transaction of its own: it writes, and calls nobody.

    `missed` says what becomes of runs that nobody made in time. What looks at state wants `once`, the default: the next
    run finds all there is. `catch_up` makes them one after the other, at most the newest `catch_up_limit`.
    """

    name: str
    every: float
    run: Callable[[AsyncSession], Awaitable[None]]
    missed: Missed = "once"
    catch_up_limit: int = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What a look at a schedule comes to: whether it runs now, when it is due after that, and the runs left out."""

    is_due: bool
    next_at: datetime
    left_out: int = 0


def plan(schedule: Schedule, *, next_at: datetime, now: datetime) -> Plan:
    """Decide for a schedule whose next run is due at `next_at`. Pure.

    Due times stay `every` apart from the first one on, however late a run starts. One that lies further ahead than it
    can be set comes from before the clock was set back, or from a longer `every`: the run is due now.
    """
    every = timedelta(seconds=schedule.every)
    if next_at > now + every:
        return Plan(is_due=True, next_at=now + every)
    if now < next_at:
        return Plan(is_due=False, next_at=next_at)
    behind = (now - next_at) // every  # due times since then that have passed as well
    newest = next_at + behind * every
    if schedule.missed == "catch_up":
        left_out = max(0, behind + 1 - schedule.catch_up_limit)
        return Plan(is_due=True, next_at=next_at + (left_out + 1) * every, left_out=left_out)
    is_late = now - newest > min(every / 2, ON_TIME)
    is_due = schedule.missed == "once" or not is_late
    return Plan(is_due=is_due, next_at=newest + every, left_out=behind if is_due else behind + 1)


class Scheduler:
    """Runs schedules in a worker. Of several workers, one at a time runs each: the holder of its row's lock."""

    def __init__(
        self, database: Database, schedules: Sequence[Schedule], *, chance: Callable[[], float] = random.random
    ) -> None:
        self._database = database
        self._schedules = schedules
        self._chance = chance

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set; a run under way is finished, and one that fails ends no other schedule."""
        async with Group() as tasks:
            for schedule in self._schedules:
                tasks.start(partial(self._repeat, schedule, stopping), name=f"schedule-{schedule.name}")

    async def _repeat(self, schedule: Schedule, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            wait = await self._look(schedule)
            await wait_or_poll(stopping, interval=wait)

    async def _look(self, schedule: Schedule) -> float:
        """Run it if it is due and no other process does; seconds until the next look.

        A run that fails is rolled back and stays due: this process, or another, comes again after an interval.
        """
        try:
            outcome, wait = await uncancelled(partial(self._attempt, schedule))
        except Exception as error:  # noqa: BLE001  the edge of a run: whatever it fails of is recorded, and the worker goes on
            outcome, wait = "failed", min(schedule.every, LOOK_SECONDS)
            _write_failure(schedule, error)
        runs.labels(schedule.name, outcome).inc()
        return wait

    async def _attempt(self, schedule: Schedule) -> tuple[str, float]:
        async with self._database.transaction() as session:
            return await self._look_in(session, schedule)

    async def _look_in(self, session: AsyncSession, schedule: Schedule) -> tuple[str, float]:
        name = {"name": schedule.name}
        row = (await session.execute(_LOCK, name)).one_or_none()
        if row is None and await session.scalar(_IS_DEFINED, name):
            return "elsewhere", min(schedule.every, LOOK_SECONDS)
        if row is None:
            # The first run is somewhere in its first interval: schedules that start together do not run together.
            first = schedule.every * self._chance()
            await session.execute(_DEFINE, {**name, "first": timedelta(seconds=first)})
            return "early", min(first, LOOK_SECONDS)
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
        return "done" if planned.is_due else "early", min(wait, LOOK_SECONDS)


def _write_failure(schedule: Schedule, error: Exception) -> None:
    """A database that is away or busy is a warning; a bug brings its traceback."""
    fields = {"schedule": schedule.name, "error": f"{type(error).__name__}: {error}"}
    if is_transient(error):
        log.warning("schedule_failed", **fields)
    else:
        log.error("schedule_failed", **fields, exc_info=error)
