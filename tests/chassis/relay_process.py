"""A relay in a process of its own, for test_outbox.py: settings from the environment."""

import asyncio
import os

from chassis.outbox import Relay
from chassis.pooling import create_redis
from chassis.settings import DatabaseSettings, OutboxSettings, RedisSettings
from chassis.wakeup import Wakeups
from pydantic import SecretStr, TypeAdapter


def settings[S](kind: type[S], name: str) -> S:
    adapter = TypeAdapter(kind)
    fields = TypeAdapter(dict[str, object]).validate_json(os.environ[name])
    return adapter.validate_python({**fields, "password": SecretStr(os.environ[f"{name}_PASSWORD"])})


async def main() -> None:
    database = settings(DatabaseSettings, "DATABASE")
    redis = create_redis(settings(RedisSettings, "REDIS"), timeout=5)
    wakeups = Wakeups(database, application_name="wakeups")
    outbox = OutboxSettings(batch=1, poll_interval=0.05, leader_timeout=0.5)
    relay = Relay(database, redis, outbox, wakeups=wakeups, application_name=os.environ["NAME"])
    await relay.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
