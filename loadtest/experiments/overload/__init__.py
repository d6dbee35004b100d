"""Beyond capacity: two, five and ten times as many purchases arrive as a service finishes. How many are done within the
promise?

Two ways: the service accepts every purchase, or it refuses new ones while the accepted ones take too long.
"""

import asyncio
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import aiohttp
import asyncpg
from chassis.app.api.backlog import CLOSE_SHARE

from experiments.lab.load import Generator, poisson
from experiments.lab.results import Results, Row, figure, percent
from experiments.lab.stage import Service, Stage
from experiments.overload.chart import draw

__all__ = ["assert_directions", "draw", "run"]

WORK_SECONDS, CONCURRENCY = 0.5, 2
CAPACITY = CONCURRENCY / WORK_SECONDS
"""Purchases per second: low, so that the work and not the machine is the limit."""
PROMISE, MINIMUM_RATE = 8, 2
TIMES = (2, 5, 10)
LOAD_SECONDS = 15.0
AFTER_SECONDS = PROMISE + 1.0
"""After this time, each accepted purchase is done within the promise or late."""
WATCH_SECONDS = 0.25
GOODPUT, KEPT, RECOVERY = 90, 99, 30.0
"""The promises: percent of the capacity, percent of the accepted purchases, seconds after the load."""

NAIVE, OURS = "accepts all", "by time"
TABLES = (
    "CREATE TABLE purchase (id bigint PRIMARY KEY, placed_at timestamptz DEFAULT now(), done_at timestamptz)",
    "CREATE INDEX ON purchase (placed_at) WHERE done_at IS NULL",
    "CREATE INDEX ON purchase (done_at)",
)
_FOUND = """
    SELECT count(*) AS accepted,
        count(*) FILTER (WHERE done_at <= $2) AS done,
        count(*) FILTER (WHERE done_at - placed_at <= make_interval(secs => $1)) AS kept,
        count(*) FILTER (WHERE done_at - placed_at <= make_interval(secs => $1) AND done_at <= $2) AS kept_in_load,
        percentile_disc(0.99) WITHIN GROUP (
            ORDER BY extract(epoch FROM coalesce(done_at, now()) - placed_at)
        )::float8 AS slow
    FROM purchase
"""


@dataclass(kw_only=True)
class Arm:
    name: str
    times: int
    watcher: asyncpg.Connection = field(repr=False)
    service: Service = field(repr=False)
    refused: int = 0
    backlogs: list[tuple[float, float]] = field(default_factory=list)
    """The moment, and the seconds that the accepted purchases take at the capacity."""
    left: float = 0.0
    """The backlog at the end of the load."""
    recovered: float | None = None
    """Seconds after the load until the backlog is below a second."""
    found: dict[str, float] = field(default_factory=dict)


async def run(stage: Stage, results: Results) -> float:
    results.load = (
        f"A service finishes {CAPACITY:g} purchases a second ({CONCURRENCY} at once, {WORK_SECONDS:g} s each) and "
        f"promises each within {PROMISE} s. For {LOAD_SECONDS:g} s, {', '.join(map(str, TIMES))} times as many arrive. "
        "For each load, one service accepts all, and another refuses while the accepted ones take "
        f"{CLOSE_SHARE * PROMISE:g} s or more."
    )
    async with AsyncExitStack() as stack:
        arms = [await _arm(stage, stack, name, times) for times in TIMES for name in (NAIVE, OURS)]
        generator = Generator()
        async with asyncio.TaskGroup() as tasks:
            for arm in arms:
                tasks.create_task(_play(arm, generator, seed=results.seed))
                tasks.create_task(_watch(arm, generator))
    _report(arms, results)
    return generator.latest


async def _arm(stage: Stage, stack: AsyncExitStack, name: str, times: int) -> Arm:
    which = f"{'naive' if name == NAIVE else 'ours'}_{times}"
    settings = await stage.database(which, *TABLES)
    limits = {
        "jobs__concurrency": CONCURRENCY,
        "database__pool_size": 12,
        "redis__prefix": which,
        "server__work_seconds": WORK_SECONDS,
        "server__has_admission": name == OURS,
        "backlog__promise": PROMISE,
        "backlog__minimum_rate": MINIMUM_RATE,
    }
    service = await stack.enter_async_context(stage.service("overload.service", which, settings, **limits))
    watcher = await asyncpg.connect(stage.dsn(settings))
    stack.push_async_callback(watcher.close)
    return Arm(name=name, times=times, watcher=watcher, service=service)


async def _play(arm: Arm, generator: Generator, *, seed: int) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:

        async def place(number: str) -> str:
            async with session.post(f"{arm.service.url}/purchases/{number}") as answer:
                await answer.read()
                return str(answer.status)

        moments = poisson(arm.times * CAPACITY, LOAD_SECONDS, random.Random(seed))
        calls = await generator.play([(at, str(number)) for number, at in enumerate(moments)], place, ends=None)
    arm.refused = sum(call.outcome == "503" for call in calls)


async def _watch(arm: Arm, generator: Generator) -> None:
    await generator.until(0)
    began = await arm.watcher.fetchval("SELECT clock_timestamp()")
    while generator.now < LOAD_SECONDS + AFTER_SECONDS:
        waiting = await arm.watcher.fetchval("SELECT count(*) FROM purchase WHERE done_at IS NULL")
        backlog, now = waiting / CAPACITY, generator.now
        arm.backlogs.append((round(now, 2), round(backlog, 2)))
        if now <= LOAD_SECONDS:
            arm.left = backlog
        elif backlog < 1 and arm.recovered is None:
            arm.recovered = now - LOAD_SECONDS
        await asyncio.sleep(WATCH_SECONDS)
    ended = await arm.watcher.fetchval("SELECT $1::timestamptz + make_interval(secs => $2)", began, LOAD_SECONDS)
    arm.found = dict(await arm.watcher.fetchrow(_FOUND, PROMISE, ended) or {})


ACCEPTED, REFUSED, USEFUL, DONE = "accepted", "refused (503)", "goodput, % of capacity", "done within the promise, %"
SLOWEST, LEFT, RECOVERED = "99 % done after, s", "backlog after the load, s", "recovered after, s"


def _report(arms: list[Arm], results: Results) -> None:
    rows: dict[str, Row] = {}
    for arm in arms:
        # On a busy machine the capacity is lower than planned: it is what the better of the two services finished.
        capacity = max(one.found["done"] for one in arms if one.times == arm.times)
        name = f"{arm.times}×, {arm.name}"
        rows[name] = {
            "arm": name,
            ACCEPTED: int(arm.found["accepted"]),
            REFUSED: arm.refused,
            USEFUL: percent(arm.found["kept_in_load"], capacity),
            DONE: percent(arm.found["kept"], arm.found["accepted"]),
            SLOWEST: arm.found["slow"],
            LEFT: arm.left,
            RECOVERED: arm.recovered,
        }
    results.tables[f"{LOAD_SECONDS:g} s of too much, and {AFTER_SECONDS:g} s afterwards"] = list(rows.values())
    results.series = {
        "backlogs": {f"{arm.times}×, {arm.name}": arm.backlogs for arm in arms},
        "load_seconds": LOAD_SECONDS,
        "promise": PROMISE,
    }
    for times in TIMES:
        results.expect(
            f"{times}×, {NAIVE}: backlog after the load is (times - 1) × {LOAD_SECONDS:g} s",
            (times - 1) * LOAD_SECONDS,
            rows[f"{times}×, {NAIVE}"][LEFT],
        )
    results.expect(f"{OURS}: backlog is at most {CLOSE_SHARE:g} of the promise", CLOSE_SHARE * PROMISE, _longest(arms))
    assert_directions(rows, results)


def _longest(arms: list[Arm]) -> float:
    return max(backlog for arm in arms if arm.name == OURS for _, backlog in arm.backlogs)


def assert_directions(rows: Mapping[str, Row], results: Results) -> None:
    of = partial(figure, rows)
    for times in TIMES:
        naive, ours = f"{times}×, {NAIVE}", f"{times}×, {OURS}"
        results.check(
            f"at {times} times the capacity, {of(ours, DONE):.1f} % of the accepted purchases are done within the "
            f"promise, and {of(naive, DONE):.1f} % if all are accepted",
            holds=of(ours, DONE) >= KEPT and of(naive, DONE) < KEPT,
        )
        results.check(
            f"at {times} times the capacity, the goodput is {of(ours, USEFUL):.0f} % of the capacity",
            holds=of(ours, USEFUL) >= GOODPUT,
        )
        recovered = rows[ours][RECOVERED]
        results.check(
            f"at {times} times the capacity, the service has recovered {recovered or 0:.1f} s after the load",
            holds=recovered is not None and of(ours, RECOVERED) <= RECOVERY,
        )
