"""The chassis' own queue, as a service uses it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from chassis.config.settings import DatabaseSettings, JobSettings, LogSettings
from chassis.jobs import JobPayload, RunningJob, enqueue, job_row
from chassis.jobs.runner import JobRunner
from chassis.logging import configure_logging, flush_logs
from chassis.migrations import upgrade
from chassis.pooling import Database, Row
from chassis.pooling.statements import DriverStatement
from chassis.pooling.wakeup import Wakeups
from chassis.process.garbage import freeze_start_up
from chassis.telemetry import LIMITS, span
from measuring import Queue, main
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from sqlalchemy import text

_THING = DriverStatement.of("INSERT INTO thing (name) VALUES (:thing)")
_MANY = text(
    "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, traceparent) "
    """SELECT 'ship', 'default', 0, '{"order_id": 1}', 1, 10, '00-' || md5(n::text) || '-00f067aa0ba902b7-0' """
    "|| (n % 10 = 0)::int FROM generate_series(1, :jobs) AS n"
)
"""As `enqueue` leaves them; one trace in ten is recorded."""


_UNRECORDED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
"""A caller's trace, as nine in ten are."""


class Ship(JobPayload, job="ship"):
    order_id: int


def database_settings() -> DatabaseSettings:
    parts = urlsplit(os.environ["BENCH_POSTGRES"])
    return DatabaseSettings.model_validate(
        {
            "host": parts.hostname,
            "port": parts.port,
            "name": parts.path.lstrip("/"),
            "user": parts.username,
            "password": parts.password,
            "migration_user": parts.username,
            "migration_password": parts.password,
        }
    )


def as_users_run_it() -> None:
    """JSON lines at INFO and trace ids, as in a cluster whose collector records one trace in ten."""
    identity = {"service": "bench", "version": "1", "environment": "prod", "instance": "bench-1"}
    configure_logging(LogSettings(level="INFO", format="json"), **identity)
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.1)), span_limits=LIMITS)
    trace.set_tracer_provider(provider)


@asynccontextmanager
async def opened() -> AsyncIterator[Queue]:
    as_users_run_it()
    settings = database_settings()
    await upgrade(settings)
    async with Wakeups(settings, application_name="bench") as wakeups:
        database = Database(settings, pool="bench", application_name="bench", notify=wakeups.notify)
        async with database.transaction() as session:
            await session.execute(
                text("CREATE TABLE thing (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)")
            )

        async def add(jobs: int) -> None:
            async with database.transaction() as session:
                if jobs == 1:
                    await enqueue(session, Ship(order_id=1))
                else:
                    await session.execute(_MANY, {"jobs": jobs})

        @asynccontextmanager
        async def worker(arrive: Callable[[], None], concurrency: int) -> AsyncIterator[None]:
            async def ship(_job: RunningJob, _payload: Ship) -> None:
                arrive()

            runner = JobRunner(
                database, {Ship: ship}, JobSettings(concurrency=concurrency), wakeups=wakeups, drain_timeout=5
            )
            stopping = asyncio.Event()
            run = asyncio.create_task(runner.run(stopping))
            try:
                yield
            finally:
                stopping.set()
                await run

        async def add_in_transaction(with_job: bool) -> None:
            with span("request", traceparent=_UNRECORDED):
                async with database.transaction() as session:
                    await session.fetch(_THING, thing="x")
                    if with_job:
                        await enqueue(session, Ship(order_id=1))

        async def add_together(with_job: bool) -> None:
            thing = Row(statement=_THING, values={"thing": "x"})
            with span("request", traceparent=_UNRECORDED):
                async with database.transaction() as session:
                    if with_job:
                        await session.insert(thing, job_row(Ship(order_id=1)))
                    else:
                        await session.insert(thing)

        freeze_start_up()  # as a worker does
        yield Queue(
            enqueue=add,
            worker=worker,
            add_in_transaction=add_in_transaction,
            add_together=add_together,
        )
        await database.close()
    flush_logs()  # the last line of all is the figure


if __name__ == "__main__":
    main(opened)
