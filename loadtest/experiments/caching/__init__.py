"""Caching: a hot key expires. How often is its value computed again, and who waits for it?

Two replicas read one key, λ times a second together; computing it takes δ seconds in PostgreSQL. Without protection
everybody who comes in those δ seconds computes it himself: λδ times at each expiry.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from chassis.caching import Cache
from chassis.config.settings import CacheSettings
from chassis.pooling import Database, create_redis
from prometheus_client import REGISTRY
from pydantic import TypeAdapter
from sqlalchemy import text

from experiments.caching.chart import draw
from experiments.caching.naive import NaiveCache
from experiments.lab.load import Call, Generator, percentile, poisson
from experiments.lab.results import Results, Row, figure
from experiments.lab.stage import Stage

__all__ = ["assert_directions", "draw", "run"]

RATE, LOAD_SECONDS, TTL = 60, 0.5, 8
EXPIRIES = 3
ENDS = (EXPIRIES + 0.5) * (TTL + LOAD_SECONDS)
REPLICAS = 2
KEY = "hot"
NAIVE, FLIGHT, XFETCH, STALE = "naive", "single flight", "XFetch", "stale while revalidating"
# Each protection by itself; the chassis' defaults have all three.
ALONE = {
    "ttl": TTL,
    "ttl_jitter": 0,
    "negative_ttl": 1,
    "stale_while_revalidate": 0,
    "stale_if_error": 0,
    "early_beta": 0,
    "wait_timeout": 10,  # a busy machine's pause is no reason to load beside another
}
SETTINGS = {
    FLIGHT: CacheSettings.model_validate(ALONE),
    XFETCH: CacheSettings.model_validate(ALONE | {"early_beta": 1}),
    STALE: CacheSettings.model_validate(ALONE | {"stale_while_revalidate": TTL, "stale_if_error": TTL}),
}
CONNECTIONS = 100
"""The origin's, for the naive arm's stampede."""


class AnyCache(Protocol):
    async def get_or_load(self, key: str, loader: Callable[[], Awaitable[float]]) -> float: ...

    async def close(self) -> None: ...


@dataclass(kw_only=True)
class Origin:
    """What is cached: a query of `LOAD_SECONDS`, whose answer is the moment at which it began."""

    database: Database
    begun: list[float] = field(default_factory=list)
    concurrent: int = 0
    peak: int = 0

    async def load(self) -> float:
        began = asyncio.get_running_loop().time()
        self.begun.append(began)
        self.concurrent += 1
        self.peak = max(self.peak, self.concurrent)
        try:
            async with self.database.read() as session:
                await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": LOAD_SECONDS})
        finally:
            self.concurrent -= 1
        return began


@dataclass(kw_only=True)
class Arm:
    name: str
    origin: Origin
    caches: list[AnyCache]
    calls: list[Call] = field(default_factory=list)
    before: tuple[int, int] = (0, 0)
    """How many had waited, and had been served stale, when the cache had been filled."""

    async def fill(self) -> None:
        """The first load of all: what is measured begins with a full cache."""
        await self.caches[0].get_or_load(KEY, self.origin.load)
        self.origin.begun.clear()
        self.origin.peak = 0
        self.before = self._counted("miss"), self._counted("stale")

    @property
    def waited(self) -> int:
        """Readers who found nothing and waited for a load: their own, where nobody shares it."""
        return len(self.origin.begun) if self.name == NAIVE else self._counted("miss") - self.before[0]

    @property
    def served_stale(self) -> int:
        return self._counted("stale") - self.before[1]

    def _counted(self, result: str) -> int:
        """By the cache's own metric; 0 of the naive one, which has none."""
        return int(REGISTRY.get_sample_value("cache_requests_total", {"cache": self.name, "result": result}) or 0)


async def run(stage: Stage, results: Results) -> float:
    results.load = (
        f"{RATE} reads a second of one key by {REPLICAS} replicas together, for {ENDS - 1:.0f} s; computing it takes "
        f"{LOAD_SECONDS:g} s in PostgreSQL, and it lives for {TTL} s in Valkey. All arms at once."
    )
    schedule = [(due, "read") for due in poisson(RATE, ENDS - 1, random.Random(results.seed))]
    async with AsyncExitStack() as stack:
        arms = await _arms(stage, stack)
        await asyncio.gather(*(arm.fill() for arm in arms))
        generator = Generator()
        async with asyncio.TaskGroup() as tasks:
            for arm in arms:
                tasks.create_task(_play(arm, generator, schedule))
    _judge(arms, generator.start, results)
    return generator.latest


async def _arms(stage: Stage, stack: AsyncExitStack) -> list[Arm]:
    settings = await stage.database("cache")
    arms = []
    for name in (NAIVE, FLIGHT, XFETCH, STALE):
        size = CONNECTIONS if name == NAIVE else 5
        pool = Database(
            settings.model_copy(update={"pool_size": size, "pool_timeout": 2.0}), pool=name, application_name="lab"
        )
        stack.push_async_callback(pool.close)
        await _warm(pool, size)
        caches: list[AnyCache] = []
        for replica in range(REPLICAS):
            redis = create_redis(stage.redis, timeout=5, pool=f"{name} {replica}")
            stack.push_async_callback(redis.aclose)
            cache: AnyCache
            if name == NAIVE:
                cache = NaiveCache(redis, ttl=TTL)
            else:
                seeded = random.Random(f"{name} {replica}")
                cache = Cache(redis, TypeAdapter(float), SETTINGS[name], name=name, random=seeded.random)
            stack.push_async_callback(cache.close)
            caches.append(cache)
        arms.append(Arm(name=name, origin=Origin(database=pool), caches=caches))
    return arms


async def _warm(database: Database, connections: int) -> None:
    """Open them before: a login costs the processor more than a query, and is not what is measured."""
    opened = asyncio.Semaphore(0)

    async def hold() -> None:
        async with database.read():
            opened.release()
            await done.wait()

    done = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(hold())
            await opened.acquire()
        done.set()


async def _play(arm: Arm, generator: Generator, schedule: list[tuple[float, str]]) -> None:
    chance = random.Random(arm.name)

    async def read(_: str) -> str:
        cache = chance.choice(arm.caches)
        await cache.get_or_load(KEY, arm.origin.load)
        return "answered"

    arm.calls = await generator.play(schedule, read, ends=ENDS)


RECOMPUTES, PER_EXPIRY, PEAK, WAITERS, P99, STALE_SERVED = (
    "computed",
    "per expiry",
    "at once at most",
    "readers who waited",
    "p99, ms",
    "served stale",
)


def _judge(arms: list[Arm], start: float, results: Results) -> None:
    rows = {arm.name: _row(arm) for arm in arms}
    results.tables["With a full cache in the beginning"] = list(rows.values())
    results.series = {
        "seconds": ENDS,
        "begun": {arm.name: [round(moment - start, 3) for moment in arm.origin.begun] for arm in arms},
    }
    results.expect(
        f"naive: λδ = {RATE} × {LOAD_SECONDS:g} computations per expiry",
        RATE * LOAD_SECONDS,
        rows[NAIVE][PER_EXPIRY],
    )
    flight = arms[1]
    results.expect("single flight: one per expiry", 1, rows[FLIGHT][PER_EXPIRY])
    results.expect(
        f"single flight: λδ = {RATE * LOAD_SECONDS:.0f} wait for it, per expiry",
        RATE * LOAD_SECONDS,
        flight.waited / max(1, _expiries(flight)),
    )
    for name in (XFETCH, STALE):
        results.expect(f"{name}: nobody waits", 0, rows[name][WAITERS])
    results.expect(
        f"{STALE}: λδ get a value that is over its time, per expiry",
        RATE * LOAD_SECONDS,
        arms[3].served_stale / max(1, _expiries(arms[3])),
    )
    assert_directions(rows, results)


def _expiries(arm: Arm) -> int:
    """Bursts of loads, each more than half a TTL after the one before."""
    moments = arm.origin.begun
    return sum(later - earlier > TTL / 2 for earlier, later in zip([0.0, *moments], moments, strict=False))


def _row(arm: Arm) -> Row:
    computed = len(arm.origin.begun)
    return {
        "arm": arm.name,
        RECOMPUTES: computed,
        PER_EXPIRY: computed / max(1, _expiries(arm)),
        PEAK: arm.origin.peak,
        WAITERS: arm.waited,
        P99: 1000 * percentile((one.seconds for one in arm.calls), 0.99),
        STALE_SERVED: arm.served_stale,
    }


def assert_directions(rows: Mapping[str, Row], results: Results) -> None:
    of = partial(figure, rows)
    results.check(
        f"naive: {of(NAIVE, PER_EXPIRY):.0f} computations per expiry, {of(NAIVE, PEAK):.0f} at once",
        holds=of(NAIVE, PER_EXPIRY) > RATE * LOAD_SECONDS / 3,
    )
    for name in (FLIGHT, XFETCH, STALE):
        results.check(
            f"{name}: {of(name, PER_EXPIRY):.1f} per expiry, {of(name, PEAK):.0f} at once",
            holds=of(name, PER_EXPIRY) <= 2 and of(name, PEAK) <= 1,  # noqa: PLR2004
        )
    for name in (XFETCH, STALE):
        results.check(
            f"{name}: {of(name, WAITERS):.0f} readers waited, with a single flight alone {of(FLIGHT, WAITERS):.0f}",
            holds=of(name, WAITERS) < of(FLIGHT, WAITERS) / 2,
        )
