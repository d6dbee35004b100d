"""The connection pools that an API and a worker both open when they start. The pools are closed in the reverse
order.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from redis.asyncio import Redis

from chassis.config import Live
from chassis.config.settings import ServiceSettings
from chassis.pooling import Database, open_health_pool
from chassis.pooling.budget import check_budget
from chassis.pooling.installation import claim_at_start, keep_claim
from chassis.pooling.wakeup import Wakeups
from chassis.process.background import supervised


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """`health` has one connection, for health checks and short background reads, so these never wait for requests or
    jobs.

    `wakeups` notifies workers when a transaction of `database` commits.
    """

    wakeups: Wakeups
    database: Database
    health: Database


@asynccontextmanager
async def open_pools[S: ServiceSettings](
    live: Live[S], *, role: Literal["api", "worker"], pool: str, redis: Redis
) -> AsyncIterator[Pools]:
    """Open the pools. Compare the number of connections with PostgreSQL's limit, and claim the prefix of the keys in
    Redis for this installation, so that two installations never share keys.

    `pool` is the label of `database` in metrics. `redis` is closed with the pools. Raises `ForeignPrefix` when the
    prefix belongs to another installation.
    """
    settings = live.current
    service, name = settings.service_name, f"{settings.service_name}-{role}"
    async with AsyncExitStack() as stack:
        wakeups = await stack.enter_async_context(
            Wakeups(settings.database, application_name=name, passwords=live.passwords)
        )
        database = Database(
            settings.database, pool=pool, application_name=name, notify=wakeups.notify, passwords=live.passwords
        )
        stack.push_async_callback(database.close)
        health = open_health_pool(settings.database, application_name=name, passwords=live.passwords)
        stack.push_async_callback(health.close)
        await check_budget(live, health)
        stack.push_async_callback(redis.aclose)
        await claim_at_start(redis, health, service=service)
        await stack.enter_async_context(
            supervised(partial(keep_claim, redis, health, service=service), name="redis-claim")
        )
        yield Pools(wakeups=wakeups, database=database, health=health)
