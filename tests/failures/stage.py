"""The platform as a test of failures uses it: buy, break, wait for a state, ask the oracle."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg
import pytest
from holdfast_local.audit import ask_oracle
from holdfast_local.chaos_client import PatientClient, Purchase
from holdfast_local.demo_metrics import Metrics
from holdfast_local.platform import Platform
from holdfast_local.supervisor import Change, Event
from severing_proxy import SeveringProxy

PATIENCE_SECONDS = 40.0


@dataclass(kw_only=True)
class Stage:
    platform: Platform
    client: PatientClient
    proxy: SeveringProxy
    events: list[Event]
    bought: int = 0
    _signalled: set[str] = field(default_factory=set)
    _paused: dict[str, datetime] = field(default_factory=dict)

    def begin(self) -> None:
        self._signalled.clear()
        self.events.clear()

    def purchase(self, **fields: object) -> Purchase:
        self.bought += 1
        return Purchase(key=f"order-{self.bought}", **fields)

    async def buy(self, number: int = 1, **fields: object) -> list[str]:
        return [await self.client.buy(self.purchase(**fields)) for _ in range(number)]

    async def provider(self, **switches: float | bool) -> None:
        """What the provider does wrong from now on; nothing, without switches."""
        await self.client.set_provider_faults(switches)

    async def mailbox(self, **switches: float | bool) -> None:
        await self.client.set_mailbox_faults(switches)

    def signal(self, program: str, number: signal.Signals = signal.SIGKILL) -> int:
        """The pid that was signalled."""
        self._signalled.add(program)
        pid = self.platform.pid(program)
        self.platform.kill(program, number)
        return pid

    async def kill(self, program: str) -> None:
        """SIGKILL, and wait for the successor."""
        pid = self.signal(program)
        await self.platform.until_ready(program)
        assert self.platform.pid(program) != pid

    def pause(self, program: str) -> None:
        os.kill(self.platform.pid(program), signal.SIGSTOP)
        self._paused[program] = datetime.now(UTC)

    def resume(self, program: str) -> None:
        os.kill(self.platform.pid(program), signal.SIGCONT)
        since = self._paused.pop(program)
        if program == "notifications-worker":
            self.platform.history.note_interruption(f"SIGSTOP {program}", since, datetime.now(UTC))

    async def fetch(self, service: str, query: str, *values: object) -> list[asyncpg.Record]:
        async with self.session(service) as connection:
            return await connection.fetch(query, *values)

    @asynccontextmanager
    async def session(self, service: str) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.platform.installation.database_dsn(service))
        try:
            yield connection
        finally:
            await connection.close()

    async def until[T](self, look: Callable[[], Awaitable[T]], *, what: str, every: float = 0.02) -> T:
        """The first truthy answer; fails when there is none in time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if answer := await look():
                return answer
            await asyncio.sleep(every)
        pytest.fail(f"not within {PATIENCE_SECONDS:.0f} s: {what}")

    async def until_job(self, service: str, name: str, *, status: str = "running", number: int = 1) -> list[int]:
        """The ids of the jobs, once that many of this name have the status."""

        async def look() -> list[int]:
            query = "SELECT id FROM job WHERE name = $1 AND status = $2"
            ids = [row["id"] for row in await self.fetch(service, query, name, status)]
            return ids if len(ids) >= number else []

        return await self.until(look, what=f"{number} {status} {name} of {service}")

    async def until_lock_waiter(self, service: str, application: str, *, number: int = 1) -> None:
        """Once that many sessions of the application wait for a lock in the service's database."""

        async def look() -> bool:
            query = "SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
            return len(await self.fetch(service, query, application)) >= number

        await self.until(look, what=f"{number} sessions of {application} wait for a lock")

    async def until_status(self, status: str, *order_ids: str) -> None:
        async def look() -> bool:
            query = "SELECT count(*) FROM orders WHERE id::text = ANY($1) AND status = $2"
            [row] = await self.fetch("orders", query, list(order_ids), status)
            return row["count"] == len(order_ids)

        await self.until(look, what=f"{len(order_ids)} orders {status}")

    async def until_payment(self, order_id: str, *statuses: str) -> None:
        async def look() -> bool:
            query = "SELECT FROM payment WHERE order_id::text = $1 AND status = ANY($2)"
            return bool(await self.fetch("payments", query, order_id, list(statuses)))

        await self.until(look, what=f"the payment is {' or '.join(statuses)}")

    async def metrics(self, program: str) -> Metrics:
        metrics = Metrics()
        metrics.add(await self.client.read_metrics(self.platform.supervisor.entries[program].program.management))
        return metrics

    async def until_open_breaker(self, program: str, operation: str) -> None:
        async def look() -> bool:
            name = "circuit_breaker_transitions_total"
            return (await self.metrics(program)).total(name, operation=operation, to="open") > 0

        await self.until(look, what=f"the breaker of {operation} opens")

    async def until_webhooks(self, result: str, number: int) -> None:
        async def look() -> bool:
            return (await self.metrics("webhook-ingest-api")).total("webhook_received_total", result=result) >= number

        await self.until(look, what=f"{number} webhooks are answered as {result}")

    async def charges(self, order_id: str) -> list[str]:
        """The states of all charges the provider has for an order."""
        [order] = await self.fetch("orders", "SELECT payment_id::text AS id FROM orders WHERE id::text = $1", order_id)
        ledger = await self.client.read_ledger()
        return [charge.status for charge in ledger.charges if charge.reference == order["id"]]

    async def refunds(self, order_id: str) -> list[str]:
        """The states of all refunds the provider has for an order."""
        query = "SELECT r.id::text AS id FROM refund r JOIN payment p ON p.id = r.payment_id WHERE order_id::text = $1"
        ids = {row["id"] for row in await self.fetch("payments", query, order_id)}
        ledger = await self.client.read_ledger()
        return [refund.status for refund in ledger.refunds if refund.reference in ids]

    async def assert_sound(self) -> None:
        """Every invariant holds once all is quiet, and no process has ended but those that were told to."""
        code, verdict = await ask_oracle(self.platform.installation, ["--wait", "45"])
        assert code == 0, verdict
        assert self._ended_by_themselves() == []

    def _ended_by_themselves(self) -> list[Event]:
        crashed = [event for event in self.events if event.change is Change.CRASHED]
        return [event for event in crashed if event.program not in self._signalled]

    async def heal(self) -> None:
        for program in tuple(self._paused):
            self.resume(program)
        self.proxy.sever()
        async with asyncio.timeout(PATIENCE_SECONDS):
            for entry in self.platform.supervisor.entries.values():
                await entry.ready.wait()
        await self.provider()
        await self.mailbox()
