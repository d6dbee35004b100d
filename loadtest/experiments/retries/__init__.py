"""Retries: does a service come back after an overload, when its callers try again?

A server has a quarter more capacity than its callers need, and then a fifth of it for ten seconds. After that the
overload is over, and the question is what the retries make of it.
Bronson et al., Metastable Failures in Distributed Systems, HotOS 2021.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import aiohttp
from chassis.calls.http_client import HttpDependency
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import BreakerSettings, DependencySettings, RetrySettings
from chassis.errors import DependencyError
from chassis.retries import full_jitter

from experiments.lab.load import Call, Generator, per_second, poisson
from experiments.lab.results import Results, Row, figure, percent
from experiments.lab.stage import Service, Stage
from experiments.retries.chart import draw
from experiments.retries.naive import NaiveClient

__all__ = ["assert_directions", "draw", "run"]

RATE, SLOTS, WORK_SECONDS = 15, 2, 0.1
FAULT_BEGINS, FAULT_ENDS, ENDS = 3.0, 13.0, 40.0
SLOWER = 5
TIMEOUT, ATTEMPTS = 1.0, 4
LAST = 5.0
"""Seconds at the end by which an arm is judged: has it recovered?"""

NONE, NAIVE, JITTER = "no retries", "naive", "full jitter"
BUDGET, DEADLINE = "budget", "budget + deadline"

# The breaker would keep the calls away by itself: here the retries are looked at alone.
NEVER_OPENS = BreakerSettings(
    failure_rate=1, slow_call_rate=1, slow_call_duration=0.99, minimum_calls=10_000, window_size=10_000
)


@dataclass(kw_only=True)
class Arm:
    name: str
    service: Service
    call: Callable[[Callable[[], object]], Awaitable[bool]]
    sent: list[float] = field(default_factory=list)
    """When each attempt was made."""
    calls: list[Call] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)


async def run(stage: Stage, results: Results) -> float:
    results.load = (
        f"{RATE} calls a second to a server of {SLOTS / WORK_SECONDS:.0f} a second ({SLOTS} connections, "
        f"{WORK_SECONDS:g} s of work in PostgreSQL each), which works {SLOWER} times slower from second "
        f"{FAULT_BEGINS:.0f} to {FAULT_ENDS:.0f}. Time-out {TIMEOUT:g} s, {ATTEMPTS - 1} retries; "
        "all arms at once, a server process each."
    )
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(aiohttp.ClientSession())
        arms = await _open_arms(stage, stack, results.seed)
        schedule = [(due, "call") for due in poisson(RATE, ENDS, random.Random(results.seed))]
        generator = Generator()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_fault(control, arms, generator))
            for arm in arms:
                tasks.create_task(_play(arm, generator, schedule))
        for arm in arms:
            async with control.get(f"{arm.service.url}/counts") as answer:
                arm.counts = await answer.json()
    _judge(arms, results)
    return generator.latest


async def _open_arms(stage: Stage, stack: AsyncExitStack, seed: int) -> list[Arm]:
    names = (NONE, NAIVE, JITTER, BUDGET, DEADLINE)
    database = await stage.database("retries")
    services = await asyncio.gather(
        *(
            stack.enter_async_context(
                stage.service(
                    "retries.service",
                    name.replace(" ", "-"),
                    database,
                    http__max_concurrent_requests=10_000,  # load shedding is another protection, and off
                    server__slots=SLOTS,
                    server__work_seconds=WORK_SECONDS,
                    server__drops_expired=name == DEADLINE,
                )
            )
            for name in names
        )
    )
    chance = random.Random(seed)
    spread = partial(full_jitter, base=0.1, cap=2.0, random=chance.random)
    arms = []
    for name, service in zip(names, services, strict=True):
        if name in {BUDGET, DEADLINE}:
            dependency = HttpDependency(
                name.replace(" ", "-"),
                DependencySettings(
                    base_url=service.url,
                    attempt_timeout=TIMEOUT,
                    max_connections=1000,
                    max_in_flight=1000,
                    retry=RetrySettings(max_attempts=ATTEMPTS),
                    breaker=NEVER_OPENS,
                ),
                authorization=lambda: "none",
                breakers=BreakerRegistry(),
            )
            stack.push_async_callback(dependency.close)
            arms.append(Arm(name=name, service=service, call=partial(_call, dependency)))
        else:
            client = NaiveClient(
                service.url,
                timeout=TIMEOUT,
                retries=0 if name == NONE else ATTEMPTS - 1,
                wait=spread if name == JITTER else lambda _: 0.1,
            )
            stack.push_async_callback(client.close)
            arms.append(Arm(name=name, service=service, call=client.call))
    return arms


async def _call(dependency: HttpDependency, sent: Callable[[], object]) -> bool:
    async def count(_: int) -> None:
        sent()

    try:
        await dependency.request("GET", "/work", operation="work", idempotent=True, retrying=True, before_attempt=count)
    except DependencyError:
        return False
    return True


async def _fault(control: aiohttp.ClientSession, arms: list[Arm], generator: Generator) -> None:
    for moment, seconds in ((FAULT_BEGINS, WORK_SECONDS * SLOWER), (FAULT_ENDS, WORK_SECONDS)):
        await generator.until(moment)
        async with asyncio.TaskGroup() as tasks:
            for arm in arms:
                tasks.create_task(_change(control, f"{arm.service.url}/work-seconds/{seconds}"))


async def _change(control: aiohttp.ClientSession, url: str) -> None:
    async with control.put(url) as answer:
        answer.raise_for_status()


async def _play(arm: Arm, generator: Generator, schedule: list[tuple[float, str]]) -> None:
    async def call(_: str) -> str:
        return "answered" if await arm.call(lambda: arm.sent.append(generator.now)) else "failed"

    arm.calls = await generator.play(schedule, call, ends=ENDS)


def _judge(arms: list[Arm], results: Results) -> None:
    rows: dict[str, Row] = {}
    seconds = {}
    for arm in arms:
        answered = per_second((one.due for one in arm.calls if one.outcome == "answered"), seconds=ENDS)
        asked = per_second((one.due for one in arm.calls), seconds=ENDS)
        seconds[arm.name] = {
            "goodput": [round(percent(good, all_), 1) for good, all_ in zip(answered, asked, strict=True)],
            "attempts": per_second(arm.sent, seconds=ENDS),
        }
        rows[arm.name] = _row(arm)
    results.tables["Five arms"] = list(rows.values())
    results.series = {
        "seconds": seconds,
        "fault": [FAULT_BEGINS, FAULT_ENDS],
        "capacity": SLOTS / WORK_SECONDS,
        "rate": RATE,
    }
    _compare(arms, rows, results)
    assert_directions(rows, results)


GOOD_END, ATTEMPTS_PER_CALL, RECOVERED, WASTED = (
    f"goodput, last {LAST:.0f} s, %",
    f"attempts per call, last {LAST:.0f} s",
    "recovered after, s",
    "work for nobody, %",
)


def _row(arm: Arm) -> Row:
    answered = [one for one in arm.calls if one.outcome == "answered"]
    return {
        "arm": arm.name,
        "goodput in the fault, %": _goodput(arm, FAULT_BEGINS, FAULT_ENDS),
        GOOD_END: _goodput(arm, ENDS - LAST - TIMEOUT, ENDS - TIMEOUT),
        RECOVERED: _recovery(arm),
        ATTEMPTS_PER_CALL: _amplification(arm, ENDS - LAST, ENDS),
        WASTED: percent(arm.counts["worked"] - len(answered), arm.counts["worked"]),
    }


def _goodput(arm: Arm, begins: float, ends: float) -> float:
    """Calls answered, whatever it took, of those made then."""
    asked = [one for one in arm.calls if begins <= one.due < ends]
    return percent(sum(one.outcome == "answered" for one in asked), len(asked))


def _amplification(arm: Arm, begins: float, ends: float) -> float:
    calls = sum(begins <= one.due < ends for one in arm.calls)
    return sum(begins <= sent < ends for sent in arm.sent) / calls


def _recovery(arm: Arm) -> float | None:
    """Seconds from the fault's end until nine calls of ten are answered and go on to be."""
    last_bad = None
    for second in range(int(FAULT_ENDS), int(ENDS - TIMEOUT)):
        if _goodput(arm, second, second + 1) < 90:  # noqa: PLR2004
            last_bad = second
    if last_bad is None:
        return 0.0
    return None if last_bad + 1 >= int(ENDS - TIMEOUT) else last_bad + 1 - FAULT_ENDS


def _compare(arms: list[Arm], rows: dict[str, Row], results: Results) -> None:
    """Little's law gives the capacity, slots ÷ hold time; the rest follows from rates alone."""
    by_name = {arm.name: arm for arm in arms}
    for name, load in ((NONE, 1.0), (BUDGET, 1.1)):
        counts = by_name[name].counts
        slow = SLOTS / (WORK_SECONDS * SLOWER)
        # The mean over the run counts the fault's slow work, too: what is above its share is the overhead of each.
        overhead = (counts["held"] - _ideal_hold(counts["worked"])) / counts["worked"]
        capacity = SLOTS / (WORK_SECONDS + max(0.0, overhead))
        backlog = (RATE * load - slow) * (FAULT_ENDS - FAULT_BEGINS)
        after = (backlog - TIMEOUT * capacity) / (capacity - RATE * load)
        results.expect(
            f"{name}: recovered after (backlog − time-out × capacity) ÷ (capacity − load), s",
            after,
            rows[name][RECOVERED],
        )
    for name in (NAIVE, JITTER):
        results.expect(
            f"{name}: load {RATE} × {ATTEMPTS} > capacity {SLOTS / WORK_SECONDS:.0f}: stays, attempts per call",
            ATTEMPTS,
            rows[name][ATTEMPTS_PER_CALL],
        )
    results.expect(f"{DEADLINE}: attempts per call ≤ 1 + budget", 1.1, rows[DEADLINE][ATTEMPTS_PER_CALL])


def _ideal_hold(worked: float) -> float:
    slow = SLOTS / (WORK_SECONDS * SLOWER) * (FAULT_ENDS - FAULT_BEGINS)
    return slow * WORK_SECONDS * SLOWER + (worked - slow) * WORK_SECONDS


def assert_directions(rows: Mapping[str, Row], results: Results) -> None:
    for name in (NAIVE, JITTER):
        good, attempts = figure(rows, name, GOOD_END), figure(rows, name, ATTEMPTS_PER_CALL)
        results.check(
            f"{name} never recovers: {good:.0f} % answered in the end, with {attempts:.1f} attempts per call",
            holds=good < 20 and attempts > 2.5,  # noqa: PLR2004
        )
    good, attempts = figure(rows, DEADLINE, GOOD_END), figure(rows, DEADLINE, ATTEMPTS_PER_CALL)
    results.check(
        f"{DEADLINE} recovers: {good:.0f} % answered, with {attempts:.2f} attempts per call",
        holds=good > 80 and attempts < 1.5,  # noqa: PLR2004
    )
    recovery, without = (rows[name][RECOVERED] for name in (DEADLINE, BUDGET))
    results.check(
        f"{DEADLINE} is back within 10 s of the fault's end, and before {BUDGET} alone",
        holds=isinstance(recovery, float)
        and recovery <= 10  # noqa: PLR2004
        and (not isinstance(without, float) or recovery < without),
    )
