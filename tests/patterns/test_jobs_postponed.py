"""A dependency that refuses calls pauses the queue once: no job loses an attempt, and the oldest job goes first."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import pytest
from aiohttp import web
from chassis.calls.http_client import HttpDependency, bearer
from chassis.calls.quota import Quota
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import BURST_SECONDS, DependencySettings, JobSettings
from chassis.jobs import JobPayload, RunningJob
from chassis.jobs.metrics import processed
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from jobs_stage import add, running
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import text
from waiting import eventually

SETTINGS = JobSettings(concurrency=4, poll_interval=0.05, backoff_base=0.5, backoff_cap=5)
RATE, BURST = 40, 20
"""Calls per second that the provider admits, and at once."""
SECONDS = 3


class Pay(JobPayload, job="pay", max_attempts=50, time_limit=10):
    order: int


class Provider:
    """A dependency that admits `RATE` calls a second, and refuses the others with `status` and Retry-After."""

    def __init__(self, status: int) -> None:
        self.url = ""
        self.paid: dict[int, float] = {}
        self.refused = 0
        self._status = status
        self.admit()
        self._updated = time.monotonic()

    def admit(self, *, rate: float = RATE, burst: float = BURST) -> None:
        self._rate, self._tokens, self._burst = rate, burst, burst

    async def answer(self, request: web.Request) -> web.Response:
        order = (await request.json())["order"]
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            self.refused += 1
            return web.Response(status=self._status, headers={"Retry-After": "1"})
        self._tokens -= 1
        self.paid[order] = now
        return web.json_response({})


@pytest.fixture(params=[429, 503])
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    provider = Provider(request.param)
    application = web.Application()
    application.router.add_post("/pay", provider.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield provider
    await runner.cleanup()


@pytest.fixture
async def dependency(provider: Provider) -> AsyncIterator[HttpDependency]:
    client = HttpDependency(
        "paced",
        DependencySettings(base_url=provider.url),
        authorization=bearer(SecretStr("key")),
        breakers=BreakerRegistry(),
    )
    yield client
    await client.close()


async def pay(dependency: HttpDependency, _job: RunningJob, payload: Pay) -> None:
    await dependency.request("POST", "/pay", operation="pay", json={"order": payload.order}, idempotent=True)


async def until(holds: Callable[[], bool], *, seconds: float = 30) -> None:
    async def look() -> bool:
        return holds()

    await eventually(look, seconds=seconds)


async def place(database: Database, orders: Sequence[int]) -> None:
    for order in orders:
        await add(database, Pay(order=order))


async def place_at_twice_the_rate(database: Database) -> dict[int, float]:
    """The orders, and when each was placed."""
    placed: dict[int, float] = {}
    began = time.monotonic()
    for order in range(2 * RATE * SECONDS):
        await asyncio.sleep(max(0.0, began + order / (2 * RATE) - time.monotonic()))
        placed[order] = time.monotonic()
        await add(database, Pay(order=order))
    return placed


def assert_nobody_is_overtaken(placed: Mapping[int, float], paid: Mapping[int, float]) -> None:
    """No order waits longer than twice as long as a younger one, or than two seconds: the provider's Retry-After is a
    whole number of seconds.
    """
    waited = [paid[order] - placed[order] for order in range(len(placed))]
    for order, seconds in enumerate(waited):
        youngest = min(waited[order:])
        assert seconds <= 2 * max(youngest, 1.0), (
            f"order {order} waited {seconds:.1f} s, a younger one {youngest:.1f} s"
        )


async def test_under_twice_the_capacity_no_order_waits_longer_than_twice_as_long_as_a_younger_one(
    database: Database, wakeups: Wakeups, provider: Provider, dependency: HttpDependency
) -> None:
    """Today's minute in three seconds: orders arrive at twice the rate that the provider admits."""
    async with running(database, wakeups, {Pay: partial(pay, dependency)}, SETTINGS):
        placed = await place_at_twice_the_rate(database)
        await until(lambda: len(provider.paid) == len(placed), seconds=60)
    assert provider.refused > 0
    assert_nobody_is_overtaken(placed, provider.paid)


@pytest.mark.parametrize("provider", [429], indirect=True)
async def test_workers_that_share_a_quota_are_not_refused_at_twice_the_capacity(
    database: Database, wakeups: Wakeups, provider: Provider, redis: Redis
) -> None:
    """Three seconds of orders at twice the rate of the edge, which the provider admits with a burst of five seconds."""
    provider.admit(burst=RATE * BURST_SECONDS)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            quota = Quota("paced", redis=redis, service="orders", rate=lambda: RATE)
            client = HttpDependency(
                "paced",
                DependencySettings(base_url=provider.url),
                authorization=bearer(SecretStr("key")),
                breakers=BreakerRegistry(),
                quota=quota,
            )
            stack.push_async_callback(client.close)
            await stack.enter_async_context(running(database, wakeups, {Pay: partial(pay, client)}, SETTINGS))
        placed = await place_at_twice_the_rate(database)
        await until(lambda: len(provider.paid) == len(placed))
    assert provider.refused == 0
    assert_nobody_is_overtaken(placed, provider.paid)


async def test_a_refused_job_keeps_its_attempts_and_its_place(
    database: Database, wakeups: Wakeups, provider: Provider, dependency: HttpDependency
) -> None:
    await place(database, range(BURST + 10))
    async with database.read() as session:
        before = {row.id: row.run_at for row in await session.execute(text("SELECT id, run_at FROM job"))}
    postponed = processed.labels("default", "pay", "postponed")._value
    so_far = postponed.get()
    async with running(database, wakeups, {Pay: partial(pay, dependency)}, SETTINGS):
        await until(lambda: postponed.get() > so_far)
        async with database.read() as session:
            rows = (await session.execute(text("SELECT id, run_at, attempt, max_attempts, status FROM job"))).all()
            failures = (await session.execute(text("SELECT count(*) FROM job_failure"))).scalar_one()
        await until(lambda: len(provider.paid) == BURST + 10, seconds=30)
    assert rows
    assert failures == 0
    assert {row.id: row.run_at for row in rows} == {row.id: before[row.id] for row in rows}
    # An attempt that runs is counted already; no other attempt is.
    assert all(row.max_attempts - row.attempt >= Pay.options.max_attempts - (row.status == "running") for row in rows)


async def test_one_refusal_pauses_every_job_and_opens_no_breaker(
    database: Database, wakeups: Wakeups, provider: Provider, dependency: HttpDependency
) -> None:
    """Ten more jobs wait than the provider admits in the second after its first refusals."""
    provider.admit(rate=BURST)
    await place(database, range(BURST * 2 + 10))
    async with running(database, wakeups, {Pay: partial(pay, dependency)}, SETTINGS):
        await until(lambda: len(provider.paid) == BURST * 2 + 10)
    # In each pause the calls that were under way together are refused, and no other job is tried.
    assert 0 < provider.refused <= 3 * SETTINGS.concurrency
    assert [breaker.state for breaker in dependency._breakers.snapshot()] == ["closed"]
