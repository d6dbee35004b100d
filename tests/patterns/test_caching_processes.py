"""500 readers in three processes cost PostgreSQL one query, which its own sequence counts: cold, stale and expired; and
the death of the process that loads.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from backends import FreshDatabase, RealServer
from chassis.config.settings import CacheSettings, RedisSettings
from redis.asyncio import Redis
from waiting import eventually

# A lease that runs out soon enough for a test to wait for it, and lasts for a query on a busy machine.
SETTINGS = CacheSettings(ttl_jitter=0, early_beta=0, lock_ttl=4, wait_timeout=20)


@pytest.fixture(scope="module")
async def origin(fresh_database: FreshDatabase, postgres: RealServer) -> AsyncIterator[asyncpg.Connection]:
    """An administrator's connection to what is cached."""
    settings = await fresh_database("")
    connection = await asyncpg.connect(postgres.dsn, database=settings.name)
    await connection.execute("CREATE TABLE thing (price int); INSERT INTO thing VALUES (1250)")
    await connection.execute("CREATE SEQUENCE origin_queries")
    yield connection
    await connection.close()


async def queries(origin: asyncpg.Connection) -> int:
    return await origin.fetchval("SELECT last_value FROM origin_queries WHERE is_called") or 0


@dataclass(frozen=True, slots=True)
class Reading:
    """A process of caching_process.py."""

    process: asyncio.subprocess.Process

    async def read(self, readers: int, *, later: float = 0) -> Any:
        """What so many concurrent readers got, `later` seconds on by the process' clock."""
        self.begin(readers, later=later)
        return await self.answer()

    def begin(self, readers: int, *, later: float = 0, query_seconds: float = 0.2) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{json.dumps([readers, later, query_seconds])}\n".encode())

    async def answer(self) -> Any:
        """Its next one; the log is between them."""
        assert self.process.stdout
        async for line in self.process.stdout:
            if line.startswith(b"{"):
                return json.loads(line)
        pytest.fail("the process has ended")


@pytest.fixture(scope="module")
async def processes(
    origin: asyncpg.Connection, postgres: RealServer, redis_settings: RedisSettings
) -> AsyncIterator[list[Reading]]:
    """Three of them, ready to read."""
    assert redis_settings.password
    given = {
        "dsn": postgres.dsn.rsplit("/", 1)[0] + "/" + await origin.fetchval("SELECT current_database()"),
        "redis": redis_settings.model_dump() | {"password": redis_settings.password.get_secret_value()},
        "cache": SETTINGS.model_dump(),
    }
    script = Path(__file__).with_name("caching_process.py")
    async with AsyncExitStack() as stack:
        started = []
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                script,
                env=os.environ | {"GIVEN": json.dumps(given)},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            stack.push_async_callback(ended, process)
            started.append(Reading(process))
        await asyncio.gather(*(one.answer() for one in started))
        yield started


async def ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def read_all(processes: list[Reading], later: float) -> tuple[Counter[int], Counter[str]]:
    """The values and results of 500 readers, as even a share to each process as there can be."""
    numbers = zip(processes, (167, 167, 166), strict=True)
    answers = await asyncio.gather(*(one.read(number, later=later) for one, number in numbers))
    values, results = Counter[int](), Counter[str]()
    for answer in answers:
        values.update(dict(answer["values"]))
        results.update(answer["results"])
    return values, results


async def test_500_readers_in_three_processes_cost_one_query_when_cold_when_stale_and_when_expired(
    origin: asyncpg.Connection, processes: list[Reading], redis: Redis
) -> None:
    assert await read_all(processes, 0) == ({1250: 500}, {"miss": 500})
    assert await queries(origin) == 1

    await origin.execute("UPDATE thing SET price = 1300")
    stale = SETTINGS.ttl + 1
    assert await read_all(processes, stale) == ({1250: 500}, {"stale": 500})
    assert await queries(origin) == 2
    assert await read_all(processes, stale) == ({1300: 500}, {"hit": 500})
    assert await queries(origin) == 2

    await origin.execute("UPDATE thing SET price = 1400")
    expired = stale + SETTINGS.ttl + SETTINGS.stale_while_revalidate + 1
    assert await read_all(processes, expired) == ({1400: 500}, {"miss": 500})
    assert await queries(origin) == 3


async def test_when_the_process_that_loads_is_killed_another_loads_once_its_lease_has_run_out(
    origin: asyncpg.Connection, processes: list[Reading], redis: Redis
) -> None:
    before = await queries(origin)
    doomed, *survivors = processes
    doomed.begin(10, query_seconds=30)

    async def is_loading() -> bool:
        return await queries(origin) == before + 1

    await eventually(is_loading)
    doomed.process.kill()
    answers = await asyncio.gather(*(one.read(50) for one in survivors))
    assert [answer["results"] for answer in answers] == [{"miss": 50}] * 2
    assert await queries(origin) == before + 2
    assert (await survivors[0].read(50))["results"] == {"hit": 50}
