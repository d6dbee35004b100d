"""The resources that every worker opens when it starts, and the parts (job runners, consumer, scheduler, relay) that a
service's composition root (the function that assembles the process) makes from these resources.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from redis.asyncio import Redis

from chassis.app.pools import open_pools
from chassis.app.worker.stages import Part
from chassis.calls.quota import Quota
from chassis.circuit_breaker import BreakerRegistry
from chassis.config import Live
from chassis.config.settings import ServiceSettings
from chassis.events.consumer import Consumer
from chassis.events.delivery import Handler as EventHandler
from chassis.events.outbox import Event
from chassis.events.relay import Relay
from chassis.jobs import Handler as JobHandler
from chassis.jobs import JobPayload, dead_letters
from chassis.jobs.runner import JobRunner
from chassis.jobs.schedules import Schedule, Scheduler
from chassis.pooling import Database, Passwords, create_redis
from chassis.pooling.wakeup import Wakeups
from chassis.process.health import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResources:
    """The pools of a worker. Commands on `redis` time out quickly; commands on `streams` may block while they wait for
    events.
    """

    current: Callable[[], ServiceSettings]
    """Returns the settings that are valid now. An operator may change some of them while the process runs."""
    settings: ServiceSettings
    """The settings with which the process started."""
    passwords: Passwords
    database: Database
    redis: Redis
    streams: Redis
    wakeups: Wakeups
    checks: Mapping[str, Check]
    breakers: BreakerRegistry

    def quota(self, dependency: str) -> Quota:
        """The limit of the calls to a dependency, which all workers of this service share."""
        return Quota(
            dependency,
            redis=self.redis,
            service=self.settings.service_name,
            rate=lambda: self.current().calls_per_second(dependency),
            replicas=lambda: self.current().database.budget.worker_replicas,
        )

    def job_runner(
        self,
        handlers: Mapping[type[JobPayload], JobHandler],
        *,
        queue: str | None = None,
        concurrency: int | None = None,
    ) -> Part:
        """Runs the jobs of `queue`, at most `concurrency` at once; the settings `jobs.queue` and `jobs.concurrency` are
        the defaults. The job runner ignores handlers for jobs of other queues.

        A worker that runs the jobs of two queues has two job runners. Each job runner has its own limit.
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
        """Consumes these event streams. The consumer group in Redis has the name of this service."""
        return Consumer(
            self.streams,
            self.database,
            self.settings.outbox,
            group=self.settings.service_name,
            streams=streams,
            handlers=handlers,
        ).run

    def scheduler(self, schedules: Sequence[Schedule] = ()) -> Part:
        """Runs these schedules, and two schedules that every service has: they prune dead letters (jobs that have
        failed for good) and the records of failed job attempts.

        If several processes have the same schedule, only one of them runs it each time it is due. The setting
        `outbox.retention` also limits how long the records of failed job attempts are retained.
        """
        prune_dead = partial(dead_letters.prune, retention=self.settings.jobs.dead_retention)
        prune_failures = partial(dead_letters.prune_failures, retention=self.settings.outbox.retention)
        pruning = [
            Schedule(name="prune_dead_letters", every=dead_letters.PRUNE_EVERY, run=prune_dead),
            Schedule(name="prune_job_failures", every=dead_letters.PRUNE_EVERY, run=prune_failures),
        ]
        return Scheduler(self.database, [*schedules, *pruning]).run

    def relay(self) -> Part:
        """Publishes the events in this service's outbox, the table of events that were committed with the data."""
        return Relay(
            self.settings.database,
            self.streams,
            self.settings.outbox,
            service=self.settings.service_name,
            wakeups=self.wakeups,
            application_name=f"{self.settings.service_name}-relay",
            passwords=self.passwords,
        ).run


@asynccontextmanager
async def open_worker_resources[S: ServiceSettings](live: Live[S]) -> AsyncIterator[WorkerResources]:
    """Open the pools, and the Redis connections for event streams."""
    settings = live.current
    redis = create_redis(settings.redis, timeout=settings.redis.timeout)
    async with (
        open_pools(live, role="worker", pool="jobs", redis=redis) as pools,
        aclosing(create_redis(settings.redis, timeout=settings.redis.stream_timeout, pool="streams")) as streams,
    ):
        yield WorkerResources(
            current=lambda: live.current,
            settings=settings,
            passwords=live.passwords,
            database=pools.database,
            redis=redis,
            streams=streams,
            wakeups=pools.wakeups,
            checks={"database": pools.health.ping},
            breakers=BreakerRegistry(),
        )
