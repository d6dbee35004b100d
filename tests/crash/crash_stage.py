"""The stage of the failure tests, on which a program dies at a point, and orders that have to end all the same."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import aiohttp
import asyncpg
from chassis.auth.service_tokens import TokenSource
from crash_points import CrashPoints
from holdfast_local.chaos_client import Card
from holdfast_local.demo_client import Answer
from holdfast_local.installation import database_name
from holdfast_local.secrets import SERVICES
from holdfast_local.supervisor import Change
from oracle.judging import examine
from oracle.report import as_json
from oracle.sources import Sources
from oracle.terms import Terms
from pydantic import SecretStr
from stage import Stage

QUIET_SECONDS = 45.0  # for everything to end; ten times what the slowest recovery here takes
_KILLED = "exit -9,"


@dataclass(kw_only=True)
class CrashStage(Stage):
    """`folder` is where the processes are told where to die, and say where they have been."""

    folder: Path
    _connections: dict[str, asyncpg.Connection] = field(default_factory=dict)

    def arm(self, program: str, point: str) -> None:
        """From now on `program` dies when it comes to `point`."""
        CrashPoints.arm(self.folder, program, point)

    def disarm(self) -> None:
        for armed in self.folder.glob("*.armed"):
            armed.unlink()

    async def until_reached(self, program: str, point: str) -> int:
        """Once the process is killing itself there; its id. Its successor has not started yet."""
        self._signalled.add(program)
        reached = self.folder / f"{program}.reached"

        async def look() -> bool:
            return reached.exists()

        await self.until(look, what=f"{program} comes to: {point}")
        return int(reached.read_text())

    async def until_dead(self, program: str, point: str) -> None:
        """Once the process has killed itself there, and a successor is ready. Its word is checked against the kernel's:
        the process of that id has ended by SIGKILL.
        """
        pid = await self.until_reached(program, point)

        async def has_ended() -> list[str]:
            return [e.detail for e in self.events if (e.program, e.pid, e.change) == (program, pid, Change.CRASHED)]

        [detail] = await self.until(has_ended, what=f"{program} ends")
        assert detail.startswith(_KILLED), detail
        await asyncio.wait_for(self.platform.until_ready(program), 30)

    def terminate(self, program: str) -> None:
        """SIGTERM: it is to stop in order, and does not get that far."""
        self.platform.kill(program, signal.SIGTERM)

    async def fetch(self, service: str, query: str, *values: object) -> list[asyncpg.Record]:
        """Over a connection that stays: with so many points, opening one for each look would take most of the time."""
        if service not in self._connections:
            self._connections[service] = await asyncpg.connect(self.platform.installation.database_dsn(service))
        return await self._connections[service].fetch(query, *values)

    async def until[T](self, look: Callable[[], Awaitable[T]], *, what: str, every: float = 0.1) -> T:
        return await super().until(look, what=what, every=every)

    async def assert_sound(self) -> None:
        """As on any stage, without starting the oracle's command each time."""
        report = await examine(self._sources(), Terms(), wait=QUIET_SECONDS, history=self.platform.history.path)
        assert report.verdict == "holds", as_json(report)
        assert self._ended_by_themselves() == []

    def _sources(self) -> Sources:
        installation = self.platform.installation
        return Sources(
            **{f"{database_name(service)}_dsn": installation.database_dsn(service) for service in SERVICES},
            provider_url=installation.url("payment_provider"),
            mailbox_url=installation.url("mailbox"),
            customer_url=installation.url("customer_endpoint"),
        )

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()

    async def customer(self, **switches: float | bool) -> None:
        """What the customer's endpoint does wrong from now on; nothing, without switches."""
        url = self.platform.installation.url("customer_endpoint") + "/faults"
        async with aiohttp.ClientSession() as session, session.put(url, json=switches, raise_for_status=True):
            pass

    async def manage_webhooks(
        self, method: str, path: str, *wanted: HTTPStatus, key: str = "", body: object = None
    ) -> bytes:
        """The answer to globex, which asks until its status is wanted; each time the same, with the same key."""
        url = f"{self.platform.installation.url('notifications')}/v1/{path}"
        headers = self.client._as("globex") | ({"Idempotency-Key": key} if key else {})

        async def ask() -> Answer:
            async with self.client._session.request(method, url, headers=headers, json=body) as response:
                return await Answer.of(response)

        return (await self.client._until({*wanted}, ask)).body

    async def request_payment(self, order: str) -> None:
        """The request of orders for the payment of this order."""
        query = "SELECT payment_id, amount, currency, payment_method FROM orders WHERE id::text = $1"
        [row] = await self.fetch("orders", query, order)
        installation = self.platform.installation
        secret = SecretStr(installation.secrets.payments_token_secret)
        token = TokenSource(issuer="orders", audience="payments", secret=lambda: secret)
        await self.client._session.request(
            "POST",
            f"{installation.url('payments')}/v1/payments",
            json={"order_id": order, **row, "payment_id": str(row["payment_id"])},
            headers={"Authorization": token()},
            raise_for_status=True,
        )

    async def replay(self, program: str, job_id: int) -> None:
        """An operator has a dead letter run again, and asks until the program says that it is none (any longer)."""
        url = f"{self.platform.supervisor.entries[program].program.management}/jobs/{job_id}/replay"
        headers = {"Authorization": f"Bearer {self.platform.installation.secrets.management_token}"}

        async def ask() -> Answer:
            async with self.client._session.post(url, headers=headers) as response:
                return await Answer.of(response)

        await self.client._until({HTTPStatus.OK, HTTPStatus.NOT_FOUND}, ask)

    async def execute(self, service: str, statement: str, *values: object) -> None:
        async with self.session(service) as connection:
            await connection.execute(statement, *values)

    def passed(self) -> set[str]:
        """Every point that a process has passed since the platform was started."""
        return {point for file in self.folder.glob("*.passed") for point in file.read_text().splitlines()}

    async def heal(self) -> None:
        self.disarm()
        await super().heal()
        await self.customer()


@dataclass(kw_only=True)
class Act:
    """One process that dies at one point, and the orders about which it does; `orders` says how each has to end."""

    stage: CrashStage
    program: str
    point: str
    orders: dict[str, str] = field(default_factory=dict)
    _is_over: bool = False

    async def buy(self, card: Card = "pm_card_ok") -> str:
        order = await self.stage.client.buy(self.stage.purchase(card=card))
        self.orders[order] = "confirmed" if card == "pm_card_ok" else "cancelled"
        return order

    async def call_off(self, order: str) -> None:
        self.orders[order] = "cancelled"
        await self.stage.client.call_off("acme", order)

    async def buy_and_call_off(self) -> None:
        """Confirmed first, so that its money has to go back."""
        order = await self.buy()
        await self.stage.until_status("confirmed", order)
        await self.call_off(order)

    async def death(self) -> None:
        """Wait for it."""
        if not self._is_over:
            await self.stage.until_dead(self.program, self.point)
            self._is_over = True
