"""saq on Redis."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import saq
from measuring import Queue, in_background, keep_unclosed_quiet, main
from redis.asyncio import BlockingConnectionPool, Redis
from saq.queue.redis import RedisQueue

MAX_CONNECTIONS = 250  # twice the most places and some more

logging.disable(logging.WARNING)


@asynccontextmanager
async def opened() -> AsyncIterator[Queue]:
    keep_unclosed_quiet()
    # Each place of a worker waits on a connection of its own, and redis-py's pool refuses the hundred-and-first.
    pool = BlockingConnectionPool.from_url(os.environ["BENCH_REDIS"], max_connections=MAX_CONNECTIONS)
    queue = RedisQueue(Redis(connection_pool=pool))
    await queue.connect()

    async def enqueue(jobs: int) -> None:
        for _ in range(jobs):
            await queue.enqueue("ship", order_id=1)

    @asynccontextmanager
    async def worker(arrive: Callable[[], None], concurrency: int) -> AsyncIterator[None]:
        async def ship(_context: object, *, order_id: int) -> None:  # noqa: ARG001  its payload
            arrive()

        saq.Worker.SIGNALS = []
        run = saq.Worker(queue, [("ship", ship)], concurrency=concurrency)
        async with in_background(run.start()):
            yield

    yield Queue(enqueue=enqueue, worker=worker)
    await queue.disconnect()


if __name__ == "__main__":
    main(opened)
