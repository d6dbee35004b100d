"""Consumers in processes of their own, for test_poison_events.py: one after another, as a supervisor starts them.

Each is a fork of this one, so that a death costs milliseconds. Settings come from the environment.
"""

import asyncio
import os
import sys

from chassis.config.settings import DatabaseSettings, OutboxSettings, RedisSettings
from chassis.events.consumer import Consumer
from chassis.events.inbox import Received
from chassis.events.outbox import Event
from chassis.pooling import Database, Session, create_redis
from process_settings import from_environment
from sqlalchemy import text

POISONED = 13


class OrderPlaced(Event, type="order.placed"):
    pass


async def handle(session: Session, received: Received[OrderPlaced]) -> None:
    if received.aggregate_id == "poison":
        os._exit(POISONED)
    await session.execute(text("INSERT INTO seen (what) VALUES (:what)"), {"what": received.aggregate_id})


async def consume() -> None:
    """Until an event is dead."""
    database = Database(from_environment(DatabaseSettings, "DATABASE"), pool="test", application_name="consumer")
    redis = create_redis(from_environment(RedisSettings, "REDIS"), timeout=5)
    consumer = Consumer(
        redis,
        database,
        OutboxSettings(poll_interval=0.02),
        group="mail",
        streams=["orders"],
        handlers={OrderPlaced: handle},
        claim_after=0.05,
        max_deliveries=4,
    )
    stopping = asyncio.Event()
    consuming = asyncio.create_task(consumer.run(stopping))
    is_over = False
    while not is_over:
        await asyncio.sleep(0.02)
        async with database.read() as session:
            is_over = await session.scalar(text("SELECT count(*) FROM dead_event")) > 0
    stopping.set()
    await consuming
    await redis.aclose()
    await database.close()


def main() -> None:
    """Print how many consumers died before one came to the end."""
    deaths = 0
    while True:
        if (child := os.fork()) == 0:
            asyncio.run(consume())
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != POISONED:
            break
        deaths += 1
    sys.stdout.write(f"{deaths}\n")


if __name__ == "__main__":
    main()
