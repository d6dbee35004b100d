"""Deadlines only shrink, travel as remaining time, and stop work that nobody waits for any more."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from chassis.app.api import Router
from chassis.app.api.application import Application
from chassis.calls.http_client import HttpDependency, bearer
from chassis.circuit_breaker import BreakerRegistry
from chassis.config.settings import DependencySettings, HttpSettings
from chassis.errors import DeadlineExceeded
from chassis.process.server import Server
from chassis.retries import deadlines
from holdfast_local.ports import free_port
from pydantic import SecretStr


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_there_is_no_limit_outside_a_deadline() -> None:
    assert deadlines.remaining() == math.inf
    deadlines.check("anything")


def test_a_deadline_counts_down_and_ends_with_its_block() -> None:
    clock = FakeClock()
    with deadlines.deadline(5, clock=clock):
        clock.now += 2
        assert deadlines.remaining(clock=clock) == pytest.approx(3)
    assert deadlines.remaining(clock=clock) == math.inf


def test_a_longer_deadline_inside_a_shorter_one_changes_nothing() -> None:
    clock = FakeClock()
    with deadlines.deadline(1, clock=clock), deadlines.deadline(60, clock=clock):
        assert deadlines.remaining(clock=clock) == pytest.approx(1)


def test_a_spent_deadline_stops_the_next_step_and_is_counted() -> None:
    clock = FakeClock()
    before = deadlines.deadline_exceeded._value.get()
    with deadlines.deadline(1, clock=clock):
        deadlines.check("charging", clock=clock)
        clock.now += 1
        with pytest.raises(DeadlineExceeded, match="before charging"):
            deadlines.check("charging", clock=clock)
    assert deadlines.deadline_exceeded._value.get() == before + 1


async def test_tasks_started_inside_inherit_the_deadline_and_cannot_move_it_for_others() -> None:
    async def shrink() -> float:
        with deadlines.deadline(0.5):
            return deadlines.remaining()

    with deadlines.deadline(30):
        assert await asyncio.create_task(shrink()) <= 0.5
        assert deadlines.remaining() > 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("250", 0.25),
        ("0", 0.0),
        ("10000", 10.0),
        ("10001", 10.0),
        ("9" * 5000, 10.0),
        (None, 10.0),
        ("", 10.0),
        ("-5", 10.0),
        ("1.5", 10.0),
        ("1e3", 10.0),
        ("nan", 10.0),
        ("²", 10.0),
        ("٣", 10.0),
        (" 250", 10.0),
    ],
)
def test_a_callers_header_is_clamped_and_nonsense_is_ignored(header: str | None, seconds: float) -> None:
    assert deadlines.from_header(header, 10.0) == seconds


def test_the_next_hop_is_granted_whole_milliseconds_rounded_down_and_never_a_negative_time() -> None:
    assert deadlines.to_header(1.2349) == "1234"
    assert deadlines.to_header(-3) == "0"


# Over real hops


class Hops:
    """Two services: `/ask` of the first works for a while, then calls the second, which keeps how much time it has."""

    def __init__(self) -> None:
        self.works_for = 0.0
        self.begun: list[str] = []
        self.left: list[float] = []
        self.url = ""


@pytest.fixture
async def hops() -> AsyncIterator[Hops]:
    hops = Hops()
    first, second = Router(), Router()
    async with AsyncExitStack() as stack:

        @second.get("/told", public=True)
        async def told() -> str:
            hops.left.append(deadlines.remaining())
            return "told"

        url = await stack.enter_async_context(serving(Application(HttpSettings, routers=[second])))
        settings = DependencySettings(base_url=url, attempt_timeout=3.0)
        client = HttpDependency("second", settings, authorization=bearer(SecretStr("key")), breakers=BreakerRegistry())
        stack.push_async_callback(client.close)

        @first.get("/ask", public=True)
        async def ask() -> str:
            hops.begun.append("ask")
            await asyncio.sleep(hops.works_for)
            await client.request("GET", "/told", operation="told")
            return "answered"

        hops.url = await stack.enter_async_context(serving(Application(HttpSettings, routers=[first])))
        yield hops


@asynccontextmanager
async def serving(app: Application) -> AsyncIterator[str]:
    """The application on a port of its own."""
    port = free_port()
    async with Server(app, host="127.0.0.1", port=port, drain_timeout=1).running():
        yield f"http://127.0.0.1:{port}"


async def ask(hops: Hops, milliseconds: str | None) -> httpx.Response:
    headers = {} if milliseconds is None else {deadlines.HEADER: milliseconds}
    async with httpx.AsyncClient() as client:
        return await client.get(f"{hops.url}/ask", headers=headers)


async def test_a_deadline_enters_with_the_request_and_is_shorter_after_each_hop(hops: Hops) -> None:
    hops.works_for = 0.2
    assert (await ask(hops, "2000")).status_code == 200
    assert 0 < hops.left[0] <= 1.8


async def test_the_next_hop_is_granted_no_more_than_one_attempt_has(hops: Hops) -> None:
    assert (await ask(hops, None)).status_code == 200
    assert 1.0 < hops.left[0] <= 3.0


async def test_work_whose_time_was_spent_before_the_next_hop_is_refused_there_and_counted(hops: Hops) -> None:
    hops.works_for, before = 0.5, deadlines.deadline_exceeded._value.get()
    answer = await ask(hops, "400")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (504, "DEADLINE_EXCEEDED")
    assert "Retry-After" in answer.headers
    assert (hops.begun, hops.left) == (["ask"], [])
    assert deadlines.deadline_exceeded._value.get() == before + 1


async def test_a_request_that_arrives_with_no_time_left_is_not_begun(hops: Hops) -> None:
    before = deadlines.deadline_exceeded._value.get()
    answer = await ask(hops, "0")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "DEADLINE_EXCEEDED")
    assert (hops.begun, hops.left) == ([], [])
    assert deadlines.deadline_exceeded._value.get() == before + 1
