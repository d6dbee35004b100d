"""The chassis' relay: events per second from the outbox to a stream, one worker, as a service runs it."""

import asyncio
import json
import os
import time
from urllib.parse import urlsplit

import uvloop
from chassis.config.settings import LogSettings, OutboxSettings, RedisSettings
from chassis.events.relay import Relay
from chassis.logging import configure_logging
from chassis.migrations import upgrade
from chassis.pooling import Database, create_redis
from chassis.pooling.wakeup import Wakeups
from holdfast_queue import database_settings
from pydantic import SecretStr
from sqlalchemy import text

EVENTS = 5_000
_MANY = text(
    "INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload) "
    """SELECT 'events:bench', 'order.placed', 1, n, 1, '{"order_id": 1, "status": "pending"}' """
    "FROM generate_series(1, :events) AS n"
)
_LEFT = text("SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL)")


async def main() -> float:
    configure_logging(LogSettings(level="WARNING"), service="bench")
    settings = database_settings()
    await upgrade(settings)
    parts = urlsplit(os.environ["BENCH_REDIS"])
    redis = create_redis(
        RedisSettings.model_validate(
            {"host": parts.hostname, "port": parts.port, "password": SecretStr(parts.password or "") or None}
        ),
        timeout=5,
    )
    async with Wakeups(settings, application_name="bench") as wakeups:
        database = Database(settings, pool="bench", application_name="bench", notify=wakeups.notify)
        async with database.transaction() as session:
            await session.execute(_MANY, {"events": EVENTS})
        stopping = asyncio.Event()
        started = time.perf_counter()
        run = asyncio.create_task(
            Relay(settings, redis, OutboxSettings(), service="bench", wakeups=wakeups).run(stopping)
        )
        async with database.read() as session:
            while await session.scalar(_LEFT):
                await asyncio.sleep(0.01)
        seconds = time.perf_counter() - started
        stopping.set()
        await run
        await database.close()
    await redis.aclose()
    return EVENTS / seconds


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main())))
