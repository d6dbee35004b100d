"""A process with a cache before PostgreSQL, for test_caching_processes.py: settings from the environment.

Each line on stdin asks for that many concurrent readers, so many seconds later, of an origin that takes so many
seconds; each line of JSON on stdout has what they got.
"""

import asyncio
import collections
import json
import os
import sys
import time

import asyncpg
from chassis.caching import Cache
from chassis.config.settings import CacheSettings, RedisSettings
from chassis.pooling import create_redis
from prometheus_client import REGISTRY
from pydantic import TypeAdapter

# A sequence counts what no transaction takes back: every load that has reached the server.
COUNT = "SELECT nextval('origin_queries')"
QUERY = "SELECT price FROM thing, pg_sleep($1)"


async def main() -> None:
    given = json.loads(os.environ["GIVEN"])
    redis = create_redis(RedisSettings.model_validate(given["redis"]), timeout=10)
    later = query_seconds = 0.0
    cache = Cache(
        redis,
        TypeAdapter(int),
        CacheSettings.model_validate(given["cache"]),
        name="things",
        clock=lambda: time.time() + later,
    )

    async def load() -> int:
        connection = await asyncpg.connect(given["dsn"])
        try:
            await connection.execute(COUNT)
            return await connection.fetchval(QUERY, query_seconds)
        finally:
            await connection.close()

    write({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        readers, later, query_seconds = json.loads(line)
        before = counts()
        values = await asyncio.gather(*(cache.get_or_load("thing", load) for _ in range(readers)))
        await asyncio.gather(*cache._flights._tasks)
        results = {result: count - before[result] for result, count in counts().items() if count > before[result]}
        write({"values": sorted(collections.Counter(values).items()), "results": results})
    await cache.close()
    await redis.aclose()


def counts() -> dict[str, int]:
    return {
        result: int(REGISTRY.get_sample_value("cache_requests_total", {"cache": "things", "result": result}) or 0)
        for result in ("hit", "miss", "stale", "negative", "bypass", "error")
    }


def write(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
