"""No alert fires on a healthy platform; one that is broken on purpose makes its alert fire, and no other."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from holdfast_local.chaos_settings import passing_settings
from holdfast_local.demo_client import DemoClient, Endpoint, open_demo_client
from holdfast_local.demo_script import SUBSCRIBER, order_body
from holdfast_local.platform import Platform, running_platform
from holdfast_local.secrets import CLIENTS
from prometheus import Prometheus, running_prometheus
from rules import alerts, compressed, seconds_of
from story import targets_of
from waiting import eventually

FACTOR = 40
"""The longest `for`, an hour, becomes 90 s, and the shortest, two minutes, three scrapes."""

LONGEST = max(seconds_of(rule["for"]) for rule in alerts() if "for" in rule) / FACTOR
SLOW_SECONDS = 0.5
"""OrdersLatency's objective."""

_COMPARED = re.compile(r"\((\w+_seconds)(?:{[^}]*})?\) > ")
COMPARED_SECONDS = sorted({name for rule in alerts() for name in _COMPARED.findall(rule["expr"])})

pytestmark = pytest.mark.timeout(420)


class Traffic:
    """Three clients that each buy something every second and a half, until cancelled."""

    def __init__(self, client: DemoClient) -> None:
        self._client = client
        self.placed = self.slow = 0

    async def run(self) -> None:
        endpoint = Endpoint.model_validate_json((await self._client.create_endpoint(SUBSCRIBER)).body)
        await self._client.give_secret(SUBSCRIBER, endpoint.secret)
        while True:
            buyer = CLIENTS[self.placed % len(CLIENTS)]
            body = order_body(product="rope", quantity=1, email="ada@example.com", card="pm_card_ok")
            began = time.monotonic()
            answer = await self._client.place(buyer, f"healthy-{self.placed}", body)
            assert answer.status == 201, answer
            self.placed += 1
            self.slow += time.monotonic() - began > SLOW_SECONDS
            await asyncio.sleep(0.5)


async def firing(prometheus: Prometheus, since: float) -> set[tuple[str, str]]:
    """The alerts that have fired since then, and of which service."""
    milliseconds = max(1, round((time.time() - since) * 1000))
    query = f'max_over_time(ALERTS{{alertstate="firing"}}[{milliseconds}ms])'
    found = (await prometheus.ask("query", query=query))["result"]
    return {(one["metric"]["alertname"], one["metric"].get("service", "")) for one in found}


@asynccontextmanager
async def relay_without_the_lead(platform: Platform, service: str) -> AsyncIterator[None]:
    """A session of ours waits for the relay's lock and has it as soon as the relay's own session is ended."""
    dsn = platform.installation.database_dsn(service)
    ours, looking = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        lock = asyncio.ensure_future(ours.execute("SELECT pg_advisory_lock(hashtextextended('chassis.outbox', 0))"))

        async def waits() -> bool:
            return await looking.fetchval("SELECT $1 = ANY (SELECT pid FROM pg_locks WHERE NOT granted)", our_pid)

        our_pid = ours.get_server_pid()
        await eventually(waits)
        await looking.execute("SELECT pg_terminate_backend(unnest(pg_blocking_pids($1)))", our_pid)
        await lock
        yield
    finally:
        await ours.close()
        await looking.close()


async def test_no_alert_fires_on_a_healthy_platform_and_a_planted_fault_fires_its_own(tmp_path: Path) -> None:
    """Every `for` and every window is divided by the same factor, and nothing else is changed.

    An alert fires when its condition has held throughout its `for`. A condition that holds on a healthy platform for an
    hour holds for each 90 s of it, so whatever would fire by and by fires here. The other way round this is stricter
    than production: a state of three seconds counts as one of two minutes. What is compared with a number of seconds is
    not compressed; the last assertions see that no such age grows with the platform's own.
    """
    with passing_settings() as settings:
        async with running_platform(settings) as platform, open_demo_client(platform.installation) as client:
            targets = await targets_of(platform)
            async with running_prometheus(tmp_path, targets, rules=compressed(FACTOR)) as prometheus:
                began, traffic = time.time(), Traffic(client)
                buying = asyncio.create_task(traffic.run())
                try:
                    await asyncio.wait([buying], timeout=LONGEST + 5)
                    assert not buying.done(), buying.exception()
                    fired = await firing(prometheus, began)
                    if traffic.slow:  # then it is true: the clients themselves waited that long
                        fired -= {("OrdersLatency", "")}
                    assert fired == set()
                    assert traffic.placed > LONGEST / 2
                    for name in COMPARED_SECONDS:
                        oldest = await prometheus.ask("query", query=f"max_over_time({name}[{LONGEST:.0f}s])")
                        assert [one for one in oldest["result"] if float(one["value"][1]) > LONGEST / 2] == []

                    planted = time.time()
                    async with relay_without_the_lead(platform, "orders"):

                        async def has_fired() -> set[tuple[str, str]]:
                            return await firing(prometheus, planted)

                        assert await eventually(has_fired, seconds=60) == {("OutboxWithoutLeader", "orders")}
                finally:
                    buying.cancel()
                    await asyncio.wait([buying])


def test_the_ages_that_alerts_compare_are_found() -> None:
    assert len(COMPARED_SECONDS) == 5
