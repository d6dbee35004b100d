"""taskiq on Redis Streams: the broker of taskiq-redis that acknowledges."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from measuring import Queue, in_background, keep_unclosed_quiet, main
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

logging.disable(logging.WARNING)


@asynccontextmanager
async def opened() -> AsyncIterator[Queue]:
    keep_unclosed_quiet()
    broker = RedisStreamBroker(os.environ["BENCH_REDIS"], consumer_id="0", unacknowledged_lock_timeout=10)
    arrived: list[Callable[[], None]] = [lambda: None]

    @broker.task(task_name="ship")
    async def ship(order_id: int) -> None:  # noqa: ARG001  its payload
        arrived[0]()

    await broker.startup()

    async def enqueue(jobs: int) -> None:
        for _ in range(jobs):
            await ship.kiq(order_id=1)

    @asynccontextmanager
    async def worker(arrive: Callable[[], None], concurrency: int) -> AsyncIterator[None]:
        arrived[0] = arrive
        async with in_background(run_receiver_task(broker, max_async_tasks=concurrency, max_prefetch=concurrency)):
            yield

    yield Queue(enqueue=enqueue, worker=worker)
    await asyncio.sleep(0)
    await broker.shutdown()


if __name__ == "__main__":
    main(opened)
