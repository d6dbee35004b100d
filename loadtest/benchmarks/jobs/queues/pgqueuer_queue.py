"""pgqueuer, as its documentation tunes it: asyncpg, `max_concurrent_tasks` twice the batch, every table logged."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
from measuring import Queue, main
from pgqueuer import AsyncpgDriver, Job, QueueManager
from pgqueuer.queries import Queries

DSN = os.environ["BENCH_POSTGRES"]


@asynccontextmanager
async def opened() -> AsyncIterator[Queue]:
    connection = await asyncpg.connect(DSN)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await connection.execute("CREATE TABLE thing (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)")

    async def enqueue(jobs: int) -> None:
        if jobs == 1:
            await queries.enqueue("ship", b'{"order_id": 1}')
        else:
            await queries.enqueue(["ship"] * jobs, [b'{"order_id": 1}'] * jobs, [0] * jobs)

    @asynccontextmanager
    async def worker(arrive: Callable[[], None], concurrency: int) -> AsyncIterator[None]:
        own = await asyncpg.connect(DSN)
        manager = QueueManager(Queries(AsyncpgDriver(own)))

        @manager.entrypoint("ship")
        async def ship(_job: Job) -> None:
            arrive()

        run = asyncio.create_task(manager.run(batch_size=concurrency // 2, max_concurrent_tasks=concurrency))
        try:
            yield
        finally:
            manager.shutdown.set()
            await run
            await own.close()

    async def add_in_transaction(with_job: bool) -> None:
        async with connection.transaction():
            await connection.execute("INSERT INTO thing (name) VALUES ($1)", "x")
            if with_job:
                await queries.enqueue("ship", b'{"order_id": 1}')

    yield Queue(enqueue=enqueue, worker=worker, add_in_transaction=add_in_transaction)
    await connection.close()


if __name__ == "__main__":
    main(opened)
