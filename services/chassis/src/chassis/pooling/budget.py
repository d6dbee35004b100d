"""The connection budget: all processes together must not open more connections than the server allows.

The Helm chart also adds up the connections of all processes, before the chart is installed
(`templates/_connections.tpl`). A test compares the chart's sum with the sum of this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import text

from chassis.config import Live
from chassis.config.settings import DatabaseSettings, ServiceSettings
from chassis.errors import PoolExhausted
from chassis.logging import get_logger
from chassis.pooling.database import Database

log = get_logger(__name__)

type Role = Literal["api", "worker"]

BESIDE_THE_POOL: Mapping[Role, int] = {"api": 2, "worker": 3}
"""The connections that a process opens beside its main pool: one for health checks, one for wake-ups, and in a worker
one for the relay of events. The budget also counts a relay's connection for the worker of notifications, although this
worker has no relay.
"""

_LIMITS = text(
    "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int"
    " + current_setting('reserved_connections')::int"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The processes of one service, which share the server's connections with the other services' processes.

    `pool` is the number of connections in one process's pool. `generations` is 2 if old and new processes run at the
    same time during a rollout, and otherwise 1.
    """

    pool: int
    api_replicas: int
    worker_replicas: int
    generations: int

    @property
    def total(self) -> int:
        processes = self.api_replicas * process_connections("api", self.pool)
        processes += self.worker_replicas * process_connections("worker", self.pool)
        return self.generations * processes + 1

    def __str__(self) -> str:
        api, worker = process_connections("api", self.pool), process_connections("worker", self.pool)
        processes = f"{self.api_replicas} × {api} + {self.worker_replicas} × {worker}"
        return f"{self.generations} × ({processes}) + 1 = {self.total}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The number of all connections that may be open: `total` is this number, and `str()` shows how it is computed."""

    shares: Mapping[str, Share]
    others: int
    reserve: int

    @property
    def total(self) -> int:
        return sum(share.total for share in self.shares.values()) + self.others + self.reserve

    def __str__(self) -> str:
        terms = [f"{service}: {share}" for service, share in sorted(self.shares.items())]
        terms += [f"other services: {self.others}"] if self.others else []
        return "; ".join([*terms, f"reserve: {self.reserve}"])


def process_connections(role: Role, pool: int) -> int:
    """The maximum number of connections of one process. `pool` is the process's pool_size + max_overflow."""
    return pool + BESIDE_THE_POOL[role]


def pool_budget(shares: Mapping[str, Share], *, reserve: int, others: int = 0) -> Budget:
    """The budget: Σ generations × replicas × (pool_size + max_overflow + connections outside the pool) + one migration
    per service + `others` + `reserve`.

    `others` is the number of connections that other programs open. `reserve` is the number of connections for
    superusers and for people who investigate a problem.
    """
    return Budget(shares=shares, others=others, reserve=reserve)


def service_budget(service: str, settings: DatabaseSettings, *, least_reserve: int = 0) -> Budget:
    """The budget that one service's settings describe."""
    replicas = settings.budget
    share = Share(
        pool=settings.pool_size + settings.max_overflow,
        api_replicas=replicas.api_replicas,
        worker_replicas=replicas.worker_replicas,
        generations=replicas.generations,
    )
    return pool_budget({service: share}, others=replicas.others, reserve=max(replicas.reserve, least_reserve))


async def check_budget[S: ServiceSettings](live: Live[S], database: Database) -> None:
    """Log a warning if the budget (all connections that the processes may open) exceeds the server's limit. The
    function compares both numbers now, and again after each change of the settings.

    The process starts even if the budget exceeds the limit, because the processes may never open all connections that
    the budget counts. If an operator has lowered the limit, a pod that restarts at night must still start.
    """
    try:
        async with database.read() as session:
            allowed, reserved = (await session.execute(_LIMITS)).one()
    except PoolExhausted as error:
        log.info("connection_budget_unchecked", reason=str(error))
        return

    def compare(settings: S) -> None:
        budget = service_budget(settings.service_name, settings.database, least_reserve=reserved)
        if budget.total > allowed:
            log.warning("connection_budget_exceeded", allowed=allowed, needed=budget.total, budget=str(budget))

    live.watch(compare)
