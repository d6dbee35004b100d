"""Circuit breaker and bulkhead: a dependency hangs. What becomes of the calls to a healthy one beside it?

A process has 60 places for work. Calls to the sick dependency hold theirs until the time-out: by Little's law,
arrivals × time-out places, and there are not as many.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import aiohttp
from chassis.calls.http_client import HttpDependency
from chassis.circuit_breaker import BreakerRegistry, CircuitBreaker
from chassis.config.settings import BreakerSettings, DependencySettings
from chassis.errors import DependencyError

from experiments.circuit_breaker.chart import draw
from experiments.circuit_breaker.naive import NaiveClient
from experiments.lab.load import Call, Generator, merged, percentile, poisson
from experiments.lab.results import Results, Row, figure, percent
from experiments.lab.stage import Service, Stage

__all__ = ["assert_directions", "draw", "run"]

PLACES, RATE, TIMEOUT = 60, 15, 5.0
"""Places of the process; calls a second to each of the two; seconds."""
IN_FLIGHT = 10
"""The bulkhead's limit."""
FAULT_BEGINS, FAULT_ENDS, ENDS = 3.0, 23.0, 31.0
WATCH_SECONDS = 0.1

NOTHING, BREAKER, BULKHEAD, BOTH = "nothing", "breaker", "bulkhead", "both"
SICK, HEALTHY = "sick", "healthy"

NEVER_OPENS = BreakerSettings(
    failure_rate=1, slow_call_rate=1, slow_call_duration=TIMEOUT - 0.1, minimum_calls=10_000, window_size=10_000
)


@dataclass(kw_only=True)
class Arm:
    """A process with its places: whoever finds none free waits for one."""

    name: str
    ask: Callable[[str, str], Awaitable[bool]]
    """Takes which dependency, and the path."""
    breaker: CircuitBreaker | None = None
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PLACES))
    taken: int = 0
    seen: list[tuple[float, int, str]] = field(default_factory=list)
    """The moment, the places taken, the breaker's state: at each look."""
    calls: list[Call] = field(default_factory=list)
    reached: int = 0
    """Calls that came to the sick dependency in the fault."""

    async def call(self, which: str) -> str:
        async with self.places:
            self.taken += 1
            try:
                path = f"/sick/{self.name}" if which == SICK else "/healthy"
                return "answered" if await self.ask(which, path) else "failed"
            finally:
                self.taken -= 1


async def run(stage: Stage, results: Results) -> float:
    results.load = (
        f"{RATE} calls a second each to a sick and a healthy dependency, from a process with {PLACES} places; the "
        f"sick one hangs from second {FAULT_BEGINS:.0f} to {FAULT_ENDS:.0f}. Time-out {TIMEOUT:g} s, the bulkhead's "
        f"limit {IN_FLIGHT}, the breaker by its defaults; all arms at once."
    )
    schedule = merged(
        **{name: poisson(RATE, ENDS - TIMEOUT, random.Random(f"{results.seed} {name}")) for name in (SICK, HEALTHY)}
    )
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(aiohttp.ClientSession())
        database = await stage.database("breaker")
        limits = {"http__max_concurrent_requests": 10_000, "http__default_deadline": 60}
        sick, healthy = await asyncio.gather(
            *(
                stack.enter_async_context(stage.service("circuit_breaker.service", name, database, **limits))
                for name in (SICK, HEALTHY)
            )
        )
        urls = {SICK: sick.url, HEALTHY: healthy.url}
        arms = [_arm(name, urls, stack) for name in (NOTHING, BREAKER, BULKHEAD, BOTH)]
        generator = Generator()
        async with asyncio.TaskGroup() as tasks:
            before = tasks.create_task(_fault(control, sick, generator))
            for arm in arms:
                tasks.create_task(_play(arm, generator, schedule))
            watching = tasks.create_task(_watch(arms, generator))
            await generator.until(FAULT_ENDS)
            after = await _reached(control, sick)
            await generator.until(ENDS)
            watching.cancel()
        for arm in arms:
            arm.reached = after.get(arm.name, 0) - before.result().get(arm.name, 0)
    _judge(arms, results)
    return generator.latest


def _arm(name: str, urls: Mapping[str, str], stack: AsyncExitStack) -> Arm:
    if name == NOTHING:
        client = NaiveClient(urls, timeout=TIMEOUT)
        stack.push_async_callback(client.close)
        return Arm(name=name, ask=client.call)
    breakers = BreakerRegistry(random=random.Random(name).random)
    breaker = BreakerSettings() if name in {BREAKER, BOTH} else NEVER_OPENS
    dependencies = {which: _dependency(name, which, url, breakers, breaker) for which, url in urls.items()}
    for dependency in dependencies.values():
        stack.push_async_callback(dependency.close)

    async def ask(which: str, path: str) -> bool:
        try:
            await dependencies[which].request("GET", path, operation=which)
        except DependencyError:
            return False
        return True

    return Arm(name=name, ask=ask, breaker=breakers.get(SICK, SICK, breaker))


def _dependency(name: str, which: str, url: str, breakers: BreakerRegistry, breaker: BreakerSettings) -> HttpDependency:
    settings = DependencySettings(
        base_url=url,
        connect_timeout=TIMEOUT,
        attempt_timeout=TIMEOUT,
        max_connections=PLACES,
        max_in_flight=IN_FLIGHT if name in {BULKHEAD, BOTH} else PLACES,
        breaker=breaker,
    )
    return HttpDependency(which, settings, authorization=lambda: "none", breakers=breakers)


async def _fault(control: aiohttp.ClientSession, service: Service, generator: Generator) -> dict[str, int]:
    """Begin it, and return how many calls had come before."""
    await generator.until(FAULT_BEGINS)
    before = await _reached(control, service)
    async with control.put(f"{service.url}/hang/{FAULT_ENDS - FAULT_BEGINS}") as answer:
        answer.raise_for_status()
    return before


async def _reached(control: aiohttp.ClientSession, service: Service) -> dict[str, int]:
    async with control.get(f"{service.url}/calls") as answer:
        found: dict[str, int] = await answer.json()
        return found


async def _play(arm: Arm, generator: Generator, schedule: list[tuple[float, str]]) -> None:
    arm.calls = await generator.play(schedule, arm.call, ends=ENDS)


async def _watch(arms: list[Arm], generator: Generator) -> None:
    while True:
        for arm in arms:
            state = arm.breaker.state if arm.breaker else "closed"
            arm.seen.append((round(generator.now, 2), arm.taken, state))
        await asyncio.sleep(WATCH_SECONDS)


P99, P50, REACHED, TAKEN, ANSWERED = (
    "healthy sibling p99, s",
    "p50, s",
    "calls that reach the sick one",
    "places taken at most",
    "sibling answered, %",
)


def _judge(arms: list[Arm], results: Results) -> None:
    rows: dict[str, Row] = {}
    for arm in arms:
        in_fault = [one for one in arm.calls if one.what == HEALTHY and FAULT_BEGINS <= one.due < FAULT_ENDS]
        rows[arm.name] = {
            "arm": arm.name,
            P50: percentile((one.seconds for one in in_fault), 0.5),
            P99: percentile((one.seconds for one in in_fault), 0.99),
            ANSWERED: percent(sum(one.outcome == "answered" for one in in_fault), len(in_fault)),
            REACHED: arm.reached,
            TAKEN: max(taken for _, taken, _ in arm.seen),
        }
    results.tables["In the fault"] = list(rows.values())
    results.series = {
        "fault": [FAULT_BEGINS, FAULT_ENDS],
        "places": PLACES,
        "arms": {
            arm.name: {
                "healthy": [[round(one.due, 3), round(one.seconds, 4)] for one in arm.calls if one.what == HEALTHY],
                "states": _changes(arm.seen),
            }
            for arm in arms
        },
    }
    _compare(rows, results)
    assert_directions(rows, results)


def _changes(seen: list[tuple[float, int, str]]) -> list[tuple[float, str]]:
    """When the breaker was first seen in each of its states."""
    changes: list[tuple[float, str]] = []
    for moment, _, state in seen:
        if not changes or changes[-1][1] != state:
            changes.append((moment, state))
    return changes


def _compare(rows: dict[str, Row], results: Results) -> None:
    wanted = RATE * TIMEOUT
    results.expect(
        f"places wanted by the hanging calls, L = λW = {RATE} × {TIMEOUT:g} = {wanted:.0f}, of {PLACES}: taken",
        PLACES,
        rows[NOTHING][TAKEN],
    )
    seconds = FAULT_ENDS - FAULT_BEGINS
    results.expect(
        f"nothing: {PLACES} places, each free again after W; the calls that reach it",
        f"≤ {PLACES * seconds / TIMEOUT:.0f}",
        rows[NOTHING][REACHED],
    )
    results.expect(
        f"bulkhead: the same with {IN_FLIGHT}",
        f"≤ {IN_FLIGHT * (seconds / TIMEOUT + 1):.0f}",
        rows[BULKHEAD][REACHED] or 0,
    )
    # The window is full of good calls: half of it has to fail, and whoever fails makes room for the next one.
    window = BreakerSettings()
    late = round(window.window_size * window.failure_rate) - 1
    for name, limit in ((BREAKER, PLACES), (BOTH, IN_FLIGHT)):
        results.expect(
            f"{name}: {limit}, and {late} more until half of the last {window.window_size} have failed; 2 trials",
            f"≤ {limit + late + 2}",
            rows[name][REACHED],
        )


def assert_directions(rows: Mapping[str, Row], results: Results) -> None:
    of = partial(figure, rows)
    nothing = of(NOTHING, P99)
    results.check(f"nothing: the healthy sibling waits, p99 {nothing:.1f} s", holds=nothing > 1)
    for name in (BREAKER, BULKHEAD, BOTH):
        results.check(
            f"{name}: p99 {of(name, P99):.2f} s, less than half of it, with {of(name, REACHED):.0f} calls of "
            f"{of(NOTHING, REACHED):.0f} reaching the sick one",
            holds=of(name, P99) < nothing / 2 and of(name, REACHED) < of(NOTHING, REACHED) / 2,
        )
    least = min(of(name, REACHED) for name in (BREAKER, BULKHEAD))
    results.check(
        f"both lets the fewest calls through: {of(BOTH, REACHED):.0f}, the better of one alone {least:.0f}",
        holds=of(BOTH, REACHED) < least,
    )
