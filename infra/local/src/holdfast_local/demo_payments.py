"""What the story waits for in payments: states, from its database and from its worker's metrics."""

from collections.abc import Sequence

import asyncpg

from holdfast_local.demo_client import DemoClient
from holdfast_local.demo_metrics import Metrics
from holdfast_local.platform import Platform

WORKER = "payments-worker"


class Payments:
    def __init__(self, platform: Platform, client: DemoClient) -> None:
        self._platform = platform
        self._client = client

    async def running_jobs(self) -> list[int]:
        return [row["id"] for row in await self._ask("SELECT id FROM job WHERE status = 'running'")]

    async def are_done(self, jobs: Sequence[int]) -> bool:
        """A job that is done is deleted."""
        return not await self._ask("SELECT id FROM job WHERE id = ANY($1)", list(jobs))

    async def know(self, order_ids: Sequence[str]) -> bool:
        """Whether each of these orders has a payment."""
        found = await self._ask("SELECT id FROM payment WHERE order_id = ANY($1::text[]::uuid[])", list(order_ids))
        return len(found) == len(order_ids)

    async def has_breaker_opened(self) -> bool:
        """The worker's for the provider, since the worker began."""
        metrics = Metrics()
        metrics.add(await self.read_worker_metrics())
        return metrics.total("circuit_breaker_transitions_total", dependency="provider", to="open") > 0

    async def read_worker_metrics(self) -> str:
        return await self._client.read_metrics(self._platform.supervisor.entries[WORKER].program.management)

    async def _ask(self, query: str, *values: list[int] | list[str]) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self._platform.installation.database_dsn("payments"))
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query, *values)
            return rows
        finally:
            await connection.close()
