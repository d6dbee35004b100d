"""What every worker opens when it starts, and how its parts are made from that. Closed in reverse order."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from redis.asyncio import Redis

from chassis.app.worker.stages import Part, run_worker
from chassis.circuit_breaker import BreakerRegistry
from chassis.circuit_breaker import routes as breaker_routes
from chassis.config import Live
from chassis.config.settings import ServiceSettings
from chassis.events.consumer import Consumer
from chassis.events.delivery import Handler as EventHandler
from chassis.events.outbox import Event
from chassis.events.relay import Relay
from chassis.jobs import Handler as JobHandler
from chassis.jobs import JobPayload, dead_letters
from chassis.jobs import routes as job_routes
from chassis.jobs.runner import JobRunner
from chassis.jobs.schedules import Schedule, Scheduler
from chassis.pooling import Database, create_redis, open_health_pool
from chassis.pooling.budget import check_budget
from chassis.pooling.installation import claim_at_start, keep_claim
from chassis.pooling.wakeup import Wakeups
from chassis.process.background import supervised
from chassis.process.ending import Ending
from chassis.process.health import Check, Health
from chassis.process.management_app import management_app
from chassis.process.reloading import reloading
from chassis.process.running import run_process

type Stages = Sequence[Sequence[Part]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResources:
    """The pools of a worker. `redis` is for caches and gives up quickly; `streams` may block on purpose."""

    live: Live[Any]
    database: Database
    redis: Redis
    streams: Redis
    wakeups: Wakeups
    checks: Mapping[str, Check]
    breakers: BreakerRegistry

    @property
    def settings(self) -> ServiceSettings:
        """As they are now."""
        settings: ServiceSettings = self.live.current
        return settings

    def job_runner(
        self,
        handlers: Mapping[type[JobPayload], JobHandler],
        *,
        queue: str | None = None,
        concurrency: int | None = None,
    ) -> Part:
        """Runs those of the service's jobs that belong to this worker's queue; or to another one beside it, with places
        of its own, so that neither takes the other's.
        """
        jobs = self.settings.jobs
        queue = queue or jobs.queue
        return JobRunner(
            self.database,
            {kind: handler for kind, handler in handlers.items() if kind.options.queue == queue},
            jobs.model_copy(update={"queue": queue, "concurrency": concurrency or jobs.concurrency}),
            wakeups=self.wakeups,
            drain_timeout=self.settings.shutdown.drain_timeout,
        ).run

    def consumer(self, streams: Sequence[str], handlers: Mapping[type[Event], EventHandler]) -> Part:
        """Consumes other services' events, as the group that has this service's name."""
        return Consumer(
            self.streams,
            self.database,
            self.settings.outbox,
            group=self.settings.service_name,
            streams=streams,
            handlers=handlers,
        ).run

    def scheduler(self, schedules: Sequence[Schedule]) -> Part:
        """Runs what recurs, one process at a time; that old dead letters and failures are forgotten is every service's.

        Failed attempts are kept as long as events are: both tell how something went.
        """
        prune_dead = partial(dead_letters.prune, retention=self.settings.jobs.dead_retention)
        prune_failures = partial(dead_letters.prune_failures, retention=self.settings.outbox.retention)
        pruning = [
            Schedule(name="prune_dead_letters", every=dead_letters.PRUNE_EVERY, run=prune_dead),
            Schedule(name="prune_job_failures", every=dead_letters.PRUNE_EVERY, run=prune_failures),
        ]
        return Scheduler(self.database, [*schedules, *pruning]).run

    def relay(self) -> Part:
        """Publishes this service's outbox."""
        return Relay(
            self.settings.database,
            self.streams,
            self.settings.outbox,
            service=self.settings.service_name,
            wakeups=self.wakeups,
            application_name=f"{self.settings.service_name}-relay",
            passwords=self.live.passwords,
        ).run


class OpenParts(Protocol):
    """A service's composition root: yields the parts of its worker, stage by stage, in the order in which they stop."""

    def __call__(self, resources: WorkerResources) -> AbstractAsyncContextManager[Stages]: ...


def run_worker_process[S: ServiceSettings](live: Live[S], *, version: str, open_parts: OpenParts) -> None:
    """Run a worker process until SIGTERM or SIGINT. Returns when all is stopped and closed."""

    async def main(info: Mapping[str, str], ending: Ending) -> None:
        async with (
            _open_worker_resources(live) as resources,
            open_parts(resources) as stages,
            reloading(live),
        ):
            health = Health(resources.checks)
            management = management_app(
                health,
                info,
                token=lambda: live.current.management.token,
                hosts=lambda: live.current.management.hosts,
                routes=[*job_routes.routes(resources.database), *breaker_routes.routes(resources.breakers)],
            )
            await run_worker(live.current, ending=ending, health=health, management=management, stages=stages)

    run_process(live, version=version, role="worker", main=main)


@asynccontextmanager
async def _open_worker_resources[S: ServiceSettings](live: Live[S]) -> AsyncIterator[WorkerResources]:
    settings = live.current

    name = f"{settings.service_name}-worker"
    async with AsyncExitStack() as stack:
        wakeups = await stack.enter_async_context(
            Wakeups(settings.database, application_name=name, passwords=live.passwords)
        )
        database = Database(
            settings.database, pool="jobs", application_name=name, notify=wakeups.notify, passwords=live.passwords
        )
        stack.push_async_callback(database.close)
        health = open_health_pool(settings.database, application_name=name, passwords=live.passwords)
        stack.push_async_callback(health.close)
        await check_budget(live, health)
        redis = create_redis(settings.redis, timeout=settings.redis.timeout)
        stack.push_async_callback(redis.aclose)
        await claim_at_start(redis, database, service=settings.service_name)
        await stack.enter_async_context(
            supervised(partial(keep_claim, redis, database, service=settings.service_name), name="redis-claim")
        )
        streams = create_redis(settings.redis, timeout=settings.redis.stream_timeout, pool="streams")
        stack.push_async_callback(streams.aclose)
        yield WorkerResources(
            live=live,
            database=database,
            redis=redis,
            streams=streams,
            wakeups=wakeups,
            checks={"database": health.ping},
            breakers=BreakerRegistry(),
        )
