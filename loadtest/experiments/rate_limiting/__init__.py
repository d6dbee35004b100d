"""Rate limiting: one caller asks for fifty times what the others do. Who is served, and what when Redis is killed?

And the burst around a window's boundary, through each algorithm. The server sheds load in all arms, so that it answers
whom it takes in: what is compared is whom that is.
"""

import asyncio
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import aiohttp
from chassis.config.settings import DatabaseSettings
from chassis.retries import deadlines
from holdfast_local.processes import kill

from experiments.lab.load import Call, Generator, merged, per_second, poisson
from experiments.lab.results import Results, Row, figure, percent
from experiments.lab.stage import Service, Stage
from experiments.rate_limiting.boundary import boundary_burst
from experiments.rate_limiting.chart import draw

__all__ = ["assert_directions", "draw", "run"]

TENANTS, TENANT_RATE, ABUSER_RATE = 9, 1.5, 75
LIMIT_RATE, BURST = 2, 20
"""Of each of the ten: calls a second, and at once. For the fixed window: as many in ten seconds."""
SLOTS, WORK_SECONDS = 4, 0.16
PLACES = 20
"""What the server holds at once before it sheds: all that it can answer within the time-out."""
TIMEOUT = 1.0
KILLED, ENDS = 8.0, 16.0
ABUSER = "abuser"

NONE, FIXED, GCRA = "none", "fixed window", "GCRA"


@dataclass(kw_only=True)
class Arm:
    name: str
    service: Service
    calls: list[Call] = field(default_factory=list)


async def run(stage: Stage, results: Results) -> float:
    capacity = SLOTS / WORK_SECONDS
    results.load = (
        f"An abuser at {ABUSER_RATE} calls a second and {TENANTS} tenants at {TENANT_RATE} each, on a server of "
        f"{capacity:.0f} a second that sheds what it cannot answer within {TIMEOUT:g} s. Each of the ten may have "
        f"{LIMIT_RATE} a second, and {BURST} at once; Redis is killed at second {KILLED:.0f}. All arms at once."
    )
    await boundary_burst(stage.redis, results)
    streams = {
        ABUSER: poisson(ABUSER_RATE, ENDS - TIMEOUT, random.Random(f"{results.seed} {ABUSER}")),
        **{
            f"tenant{number}": poisson(TENANT_RATE, ENDS - TIMEOUT, random.Random(f"{results.seed} {number}"))
            for number in range(TENANTS)
        },
    }
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=TIMEOUT))
        )
        database = await stage.database("limits")
        arms = await asyncio.gather(*(_arm(name, stage, stack, database) for name in (NONE, FIXED, GCRA)))
        generator = Generator()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_kill_redis(stage, generator))
            for arm in arms:
                tasks.create_task(_play(arm, session, generator, merged(**streams)))
    _judge(arms, results)
    return generator.latest


async def _arm(name: str, stage: Stage, stack: AsyncExitStack, database: DatabaseSettings) -> Arm:
    service = await stack.enter_async_context(
        stage.service(
            "rate_limiting.service",
            name.replace(" ", "-"),
            database,
            http__max_concurrent_requests=PLACES,
            redis__timeout=0.25,  # a busy machine's Redis is not one that has gone
            rate_limit__rate_per_second=LIMIT_RATE,
            rate_limit__burst=BURST,
            server__limiter=name,
            server__slots=SLOTS,
            server__work_seconds=WORK_SECONDS,
            server__fixed_limit=BURST,
            server__fixed_window=BURST / LIMIT_RATE,
        )
    )
    return Arm(name=name, service=service)


async def _kill_redis(stage: Stage, generator: Generator) -> None:
    await generator.until(KILLED)
    if stage.valkey.process is not None:
        await kill(stage.valkey.process)


async def _play(
    arm: Arm, session: aiohttp.ClientSession, generator: Generator, schedule: list[tuple[float, str]]
) -> None:
    headers = {deadlines.HEADER: deadlines.to_header(TIMEOUT)}

    async def call(tenant: str) -> str:
        try:
            async with session.get(f"{arm.service.url}/work/{tenant}", headers=headers) as answer:
                await answer.read()
                return str(answer.status)
        except (aiohttp.ClientError, TimeoutError):
            return "failed"

    arm.calls = await generator.play(schedule, call, ends=ENDS)


WITH, WITHOUT, ABUSE, ABUSE_WITHOUT, ERRORS = (
    "tenants served, %",
    "tenants served without Redis, %",
    "abuser served a second",
    "without Redis",
    "answered 500, %",
)


def _judge(arms: list[Arm], results: Results) -> None:
    rows = {arm.name: _row(arm) for arm in arms}
    results.tables = {"Ten callers": list(rows.values()), **results.tables}
    results.series |= {
        "killed": KILLED,
        "capacity": SLOTS / WORK_SECONDS,
        "asked": TENANTS * TENANT_RATE,
        "served": {
            arm.name: {
                who: per_second(
                    (one.due for one in arm.calls if one.outcome == "200" and (one.what == ABUSER) == (who == ABUSER)),
                    seconds=ENDS - TIMEOUT,
                )
                for who in ("tenants", ABUSER)
            }
            for arm in arms
        },
    }
    asked = TENANTS * TENANT_RATE + ABUSER_RATE
    share = 100 * SLOTS / WORK_SECONDS / asked
    results.expect(
        f"none: everybody gets capacity ÷ load = {SLOTS / WORK_SECONDS:.0f} ÷ {asked:.1f}, %",
        share,
        rows[NONE][WITH],
    )
    span = ENDS - TIMEOUT - KILLED
    results.expect(
        f"GCRA: of the abuser {LIMIT_RATE} + {BURST} ÷ {KILLED:.0f} a second; after Redis a burst once more",
        f"{LIMIT_RATE + BURST / KILLED:.2f}, {LIMIT_RATE + BURST / span:.2f}",
        f"{rows[GCRA][ABUSE]:.2f}, {rows[GCRA][ABUSE_WITHOUT]:.2f}",
    )
    assert_directions(rows, results)


def _row(arm: Arm) -> Row:
    def served(begins: float, ends: float, *, abuser: bool) -> tuple[int, int]:
        calls = [one for one in arm.calls if begins <= one.due < ends and (one.what == ABUSER) == abuser]
        return sum(one.outcome == "200" for one in calls), len(calls)

    last = ENDS - TIMEOUT
    return {
        "arm": arm.name,
        WITH: percent(*served(0, KILLED - TIMEOUT, abuser=False)),
        WITHOUT: percent(*served(KILLED, last, abuser=False)),
        ABUSE: served(0, KILLED, abuser=True)[0] / KILLED,
        ABUSE_WITHOUT: served(KILLED, last, abuser=True)[0] / (last - KILLED),
        ERRORS: percent(sum(one.outcome == "500" for one in arm.calls), len(arm.calls)),
    }


def assert_directions(rows: Mapping[str, Row], results: Results) -> None:
    of = partial(figure, rows)
    results.check(
        f"without a limiter {of(NONE, WITH):.0f} % of the tenants' calls are served, with GCRA {of(GCRA, WITH):.0f} %",
        holds=of(NONE, WITH) < 50 and of(GCRA, WITH) > 80,  # noqa: PLR2004
    )
    results.check(
        f"Redis killed: GCRA serves {of(GCRA, WITHOUT):.0f} % of them, a fixed window {of(FIXED, WITHOUT):.0f} %",
        holds=of(GCRA, WITHOUT) > 75 and of(FIXED, WITHOUT) < 10,  # noqa: PLR2004
    )
    results.check(
        f"the abuser gets {of(GCRA, ABUSE):.1f} a second of {ABUSER_RATE}, without Redis {of(GCRA, ABUSE_WITHOUT):.1f}",
        holds=max(of(GCRA, ABUSE), of(GCRA, ABUSE_WITHOUT)) < LIMIT_RATE + BURST / (KILLED - TIMEOUT) + 1,
    )
