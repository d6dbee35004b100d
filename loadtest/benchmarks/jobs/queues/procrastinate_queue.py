"""procrastinate on psycopg's pool; finished jobs are deleted, as here."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import procrastinate
import psycopg
from measuring import Queue, in_background, main

DSN = os.environ["BENCH_POSTGRES"]

logging.disable(logging.WARNING)


@asynccontextmanager
async def opened() -> AsyncIterator[Queue]:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DSN, min_size=4, max_size=25))
    arrived: list[Callable[[], None]] = [lambda: None]

    @app.task(name="ship")
    async def ship(order_id: int) -> None:  # noqa: ARG001  its payload
        arrived[0]()

    async def enqueue(jobs: int) -> None:
        if jobs == 1:
            await ship.defer_async(order_id=1)
        else:
            await ship.batch_defer_async(*[{"order_id": 1}] * jobs)

    @asynccontextmanager
    async def worker(arrive: Callable[[], None], concurrency: int) -> AsyncIterator[None]:
        arrived[0] = arrive
        run = app.run_worker_async(
            concurrency=concurrency,
            delete_jobs="successful",
            install_signal_handlers=False,
            shutdown_graceful_timeout=5,
        )
        async with in_background(run):
            yield

    async with app.open_async(), await psycopg.AsyncConnection.connect(DSN, autocommit=True) as connection:
        await app.schema_manager.apply_schema_async()
        await connection.execute("CREATE TABLE thing (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)")

        async def add_in_transaction(with_job: bool) -> None:
            async with connection.transaction():
                await connection.execute("INSERT INTO thing (name) VALUES (%s)", ["x"])
                if with_job:
                    await ship.configure(connection=connection).defer_async(order_id=1)

        yield Queue(enqueue=enqueue, worker=worker, add_in_transaction=add_in_transaction)


if __name__ == "__main__":
    main(opened)
