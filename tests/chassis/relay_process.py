"""A relay in a process of its own, for test_outbox.py: settings from the environment."""

import asyncio
import os

from chassis.config.settings import DatabaseSettings, OutboxSettings, RedisSettings
from chassis.events.relay import Relay
from chassis.pooling import create_redis
from chassis.pooling.wakeup import Wakeups
from process_settings import from_environment


async def main() -> None:
    database = from_environment(DatabaseSettings, "DATABASE")
    redis = create_redis(from_environment(RedisSettings, "REDIS"), timeout=5)
    wakeups = Wakeups(database, application_name="wakeups")
    outbox = OutboxSettings(batch=1, poll_interval=0.05, leader_timeout=0.5)
    relay = Relay(database, redis, outbox, service="orders", wakeups=wakeups, application_name=os.environ["NAME"])
    await relay.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
