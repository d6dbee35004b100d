"""A dependency that hangs while a process drains does not hold it beyond its time, and what was left is said."""

import time
from pathlib import Path

import pytest
from backends import FreshDatabase
from chassis.config.settings import RedisSettings
from freezing_proxy import FreezingProxy
from redis.asyncio import Redis
from service_process import OrdersInstallation

DRAIN_SECONDS = 1.0
LIMIT_SECONDS = DRAIN_SECONDS + 12  # ShutdownSettings.limit


@pytest.mark.parametrize("command", ["api", "worker"])
async def test_a_database_that_falls_silent_at_the_signal_does_not_hold_a_process_beyond_its_time(
    command: str, tmp_path: Path, fresh_database: FreshDatabase, redis_settings: RedisSettings, redis: Redis
) -> None:
    """Connections stay open and nothing passes: none of them can be closed in peace."""
    database = await fresh_database("orders")
    orders = OrdersInstallation.create(tmp_path, database, redis_settings)
    orders.set("shutdown__drain_timeout", str(DRAIN_SECONDS))
    proxy = FreezingProxy(database)
    async with proxy.listening() as port:
        orders.set("database__port", str(port))
        async with orders.running(command) as process:
            proxy.freeze()
            started = time.monotonic()
            process.terminate()
            ended = await process.end()
    assert time.monotonic() - started < LIMIT_SECONDS + 2, "and a moment for the processor to come to it"
    if command == "worker":  # an idle API has nothing to finish
        # In peace if its statements ran out of time soon enough; or it says what it left.
        assert ended.code == (0 if ended.of("worker_stopped") else 1)
        assert all(line["left"] for line in ended.of("worker_drain_timed_out"))
        assert len(ended.of("worker_stopped")) + len(ended.of("worker_drain_timed_out")) == 1
