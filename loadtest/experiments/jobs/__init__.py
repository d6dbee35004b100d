"""Background jobs: a thousand people sign up while the process is killed five times. Who is welcomed, and how often?

Three ways: a task in the process; a job that is leased and whose effect is a transaction of its own; and one whose
effect commits together with the job's end.
"""

import asyncio
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import aiohttp
import asyncpg
from chassis.pooling import create_redis

from experiments.jobs.chart import draw
from experiments.lab.load import Generator, poisson
from experiments.lab.results import Results, Row, figure
from experiments.lab.stage import Service, Stage

__all__ = ["assert_directions", "draw", "run"]

SIGNUPS, RATE, WORK_SECONDS = 1000, 33, 0.2
"""In all, a second, and seconds."""
KILLS = (3.0, 9.0, 15.0, 21.0, 27.0)
AT_WORK = 5.0
"""In each way at least one is half-way when the process is killed, if it comes to that within so many seconds: a
process that does nothing at that moment loses nothing.
"""
LEASE, CONCURRENCY = 3.0, 16
PATIENCE = 60.0
"""Seconds after the last answer for which a job may still be done: it takes a few, and what waits is not lost."""
CONNECTIONS = 50
"""Over which the sign-ups come, as through a proxy, which lets nobody in while the process is down."""
WATCH_SECONDS, AGAIN_SECONDS = 0.25, 0.1

TASK, LEASES, WHOLE = "in-process task", "leases", "leases, one transaction"
WAYS = {"task": TASK, "leases": LEASES, "whole": WHOLE}
TABLES = (
    "CREATE TABLE signup (way text, id bigint, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (way, id))",
    "CREATE TABLE welcome (way text NOT NULL, id bigint NOT NULL)",
    "CREATE INDEX ON welcome (way, id)",
)
_WAITING = """
    SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(at)), 0)::float AS age FROM signup
    WHERE way = $1 AND NOT EXISTS (SELECT FROM welcome WHERE welcome.way = signup.way AND welcome.id = signup.id)
"""
_HALF_WAY = """
    SELECT least(
        (SELECT count(*) FROM signup WHERE way = 'task' AND at > $1
            AND NOT EXISTS (SELECT FROM welcome WHERE welcome.way = 'task' AND welcome.id = signup.id)),
        (SELECT count(*) FROM job JOIN welcome ON way = queue AND payload->>'signup_id' = welcome.id::text
            WHERE queue = 'leases' AND status = 'running'),
        (SELECT count(*) FROM job WHERE queue = 'whole' AND status = 'running')
    )
"""
"""Of the way that has the fewest: tasks that have not written their welcome, of people who have come since the process
started; leased jobs that have written theirs and not ended; jobs in one transaction that have been begun.
"""
_FOUND = """
    SELECT count(*) AS signups, count(*) FILTER (WHERE times = 0 AND NOT is_waiting) AS lost,
        count(*) FILTER (WHERE times > 1) AS twice, sum(times)::int AS effects
    FROM (
        SELECT (SELECT count(*) FROM welcome WHERE welcome.way = signup.way AND welcome.id = signup.id) AS times,
            EXISTS (SELECT FROM job WHERE queue = way AND payload->>'signup_id' = signup.id::text) AS is_waiting
        FROM signup WHERE way = $1
    ) AS each
"""
"""A queue is named like its way; a job that is done is gone."""


@dataclass(kw_only=True)
class Arm:
    way: str
    ages: list[tuple[float, float]] = field(default_factory=list)
    """The moment, and for how many seconds the oldest sign-up has waited for its welcome."""
    drained: float | None = None
    """When everybody had been welcomed."""
    found: dict[str, int] = field(default_factory=dict)
    """signups, lost, twice, effects, and how many welcomes were begun more than once."""

    @property
    def name(self) -> str:
        return WAYS[self.way]


@dataclass(kw_only=True)
class Story:
    """What happened to all arms."""

    is_up: asyncio.Event = field(default_factory=asyncio.Event)
    kills: list[float] = field(default_factory=list)
    answered: float | None = None
    """When the last sign-up had its answer."""


async def run(stage: Stage, results: Results) -> float:
    results.load = (
        f"{SIGNUPS:,} people sign up, {RATE} a second, in three ways at once, and are answered after the commits; a "
        f"welcome takes {WORK_SECONDS:g} s and is written half-way. The process is killed (SIGKILL) {len(KILLS)} times "
        f"and started again; whoever has no answer asks again. Leases of {LEASE:g} s."
    )
    arms, story = [Arm(way=way) for way in WAYS], Story()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=5))
        )
        settings = await stage.database("jobs", *TABLES)
        limits = {
            "jobs__lease": LEASE,
            "jobs__concurrency": CONCURRENCY,
            "database__pool_size": 2 * CONCURRENCY + 6,
            "server__work_seconds": WORK_SECONDS,
        }
        service = await stack.enter_async_context(stage.service("jobs.service", "process", settings, **limits))
        watcher = await asyncpg.connect(stage.dsn(settings))
        stack.push_async_callback(watcher.close)
        generator = Generator()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_kill(service, generator, story, stage.dsn(settings)))
            tasks.create_task(_play(service, session, generator, story, seed=results.seed))
            tasks.create_task(_watch(arms, watcher, generator, story))
        redis = create_redis(stage.redis, timeout=5)
        for arm in arms:
            runs = await redis.hvals(f"runs:{arm.way}")
            arm.found = dict(await watcher.fetchrow(_FOUND, arm.way) or {})
            arm.found["ran_twice"] = sum(int(times) > 1 for times in runs)
        await redis.aclose()
    _judge(arms, story, results)
    return generator.latest


async def _play(
    service: Service, session: aiohttp.ClientSession, generator: Generator, story: Story, *, seed: int
) -> None:
    connections = asyncio.Semaphore(CONNECTIONS)

    async def sign_up(number: str) -> str:
        async with connections:
            await story.is_up.wait()
            while not await _is_signed_up(session, f"{service.url}/signups/{number}"):
                await asyncio.sleep(AGAIN_SECONDS)
                await story.is_up.wait()
        return "answered"

    # A few more than are needed, since how many come in a time is chance.
    moments = poisson(RATE, 1.5 * SIGNUPS / RATE, random.Random(seed))[:SIGNUPS]
    await generator.play([(moment, str(number)) for number, moment in enumerate(moments)], sign_up, ends=None)
    story.answered = generator.now


async def _is_signed_up(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.post(url) as answer:
            await answer.read()
            return answer.ok
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _kill(service: Service, generator: Generator, story: Story, dsn: str) -> None:
    watcher = await asyncpg.connect(dsn)
    for moment in KILLS:
        started = await watcher.fetchval("SELECT now()")
        story.is_up.set()
        await generator.until(moment)
        await _freeze_at_work(service, generator, watcher, started)
        story.is_up.clear()
        await service.kill()
        story.kills.append(round(generator.now, 2))
        await service.start()
    story.is_up.set()
    await watcher.close()


async def _freeze_at_work(
    service: Service, generator: Generator, watcher: asyncpg.Connection, started: datetime
) -> None:
    """While it runs, what it was seen to do may be done before the signal comes: so it is looked at frozen."""
    latest = generator.now + AT_WORK
    while True:
        service.freeze()
        if await watcher.fetchval(_HALF_WAY, started) or generator.now > latest:
            return
        service.thaw()
        await asyncio.sleep(0.02)


async def _watch(arms: list[Arm], watcher: asyncpg.Connection, generator: Generator, story: Story) -> None:
    """Until every job is done after the last answer; what was a task only has long ended by then."""
    while story.answered is None or (
        any(arm.drained is None for arm in arms if arm.name != TASK) and generator.now < story.answered + PATIENCE
    ):
        for arm in arms:
            found = dict(await watcher.fetchrow(_WAITING, arm.way) or {})
            arm.ages.append((round(generator.now, 2), round(found["age"], 2)))
            if story.answered is not None and found["waiting"] == 0 and arm.drained is None:
                arm.drained = generator.now
        await asyncio.sleep(WATCH_SECONDS)


LOST, RAN_TWICE, TWICE, EFFECTS, DRAIN = "lost", "begun twice", "welcomed twice", "welcomes", "drained after, s"


def _judge(arms: list[Arm], story: Story, results: Results) -> None:
    rows: dict[str, Row] = {
        arm.name: {
            "arm": arm.name,
            "sign-ups": arm.found["signups"],
            LOST: arm.found["lost"],
            RAN_TWICE: arm.found["ran_twice"],
            TWICE: arm.found["twice"],
            EFFECTS: arm.found["effects"],
            DRAIN: None if arm.drained is None else arm.drained - (story.answered or 0),
        }
        for arm in arms
    }
    results.tables[f"Killed {len(story.kills)} times"] = list(rows.values())
    results.series = {
        "arms": {arm.name: {"ages": arm.ages, **arm.found} for arm in arms},
        "kills": story.kills,
        "signups": SIGNUPS,
    }
    results.expect(
        f"in-process task: lost is what has not got half-way, kills × λW ÷ 2 = {len(KILLS)} × {RATE} × {WORK_SECONDS:g}"
        " ÷ 2; more right after a start",
        f"about {RATE * WORK_SECONDS / 2 * len(KILLS):.0f}",
        rows[TASK][LOST],
    )
    results.expect(
        f"leases: begun twice is what was in hand, at most kills × concurrency = {len(KILLS)} × {CONCURRENCY}",
        f"≤ {len(KILLS) * CONCURRENCY}",
        rows[LEASES][RAN_TWICE],
    )
    results.expect("one transaction: lost", 0, rows[WHOLE][LOST])
    results.expect("one transaction: welcomes", SIGNUPS, rows[WHOLE][EFFECTS])
    assert_directions(rows, results)


def assert_directions(rows: Mapping[str, Row], results: Results) -> None:
    of = partial(figure, rows)
    results.check(
        f"each way {SIGNUPS:,} sign-ups were answered", holds=all(of(name, "sign-ups") == SIGNUPS for name in rows)
    )
    results.check(f"the in-process task loses {of(TASK, LOST)}", holds=of(TASK, LOST) > 0)
    results.check(
        f"leases lose {of(LEASES, LOST)}, and welcome {of(LEASES, TWICE)} twice",
        holds=of(LEASES, LOST) == 0 and rows[LEASES][DRAIN] is not None and of(LEASES, TWICE) > 0,
    )
    results.check(
        f"in one transaction {of(WHOLE, LOST)} are lost and {of(WHOLE, TWICE)} welcomed twice, though "
        f"{of(WHOLE, RAN_TWICE)} were begun twice",
        holds=of(WHOLE, LOST) == 0 and of(WHOLE, EFFECTS) == SIGNUPS and of(WHOLE, RAN_TWICE) > 0,
    )
