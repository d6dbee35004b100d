"""Customers' webhooks as the tests see them: the service, its endpoints, and a customer's server on loopback."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
from aiohttp import web
from chassis.calls.bulkhead import Bulkhead
from chassis.config.settings import EgressSettings
from chassis.events.outbox import Event
from chassis.pooling import Database
from harness import SHOP, attempt, deliver, envelope, execute, one
from notifications import jobs
from notifications.events import ORDER_EVENTS, on_order
from notifications.messages import ORDERS_STREAM, DeliverWebhook, OrderCancelled, OrderConfirmed, OrderPlaced
from notifications.settings import WebhookSettings
from notifications.webhook_sender import WebhookSender
from redis.asyncio import Redis
from sqlalchemy import Row
from standardwebhooks import Webhook, WebhookVerificationError

LOOPBACK = IPv4Network("127.0.0.0/8")
KINDS = {1: OrderPlaced, 2: OrderConfirmed, 3: OrderCancelled}

type Json = dict[str, Any]


@dataclass(slots=True)
class Arrived:
    headers: dict[str, str]
    body: bytes

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def type(self) -> str:
        kind: str = orjson.loads(self.body)["type"]
        return kind

    def verifies(self, secret: str) -> bool:
        """By the published package."""
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


@dataclass(slots=True)
class Customer:
    """A customer's server: gives the `answers` it was told, then 204s; keeps what arrived."""

    port: int = 0
    arrived: list[Arrived] = field(default_factory=list)
    answers: list[web.StreamResponse] = field(default_factory=list)
    hangs: bool = False
    has_arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/webhooks"

    @property
    def types(self) -> list[str]:
        return [arrived.type for arrived in self.arrived]

    def answer(self, status: int, **headers: str) -> None:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(web.Response(status=status, headers=fields))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.arrived.append(Arrived(headers, await request.read()))
        self.has_arrived.set()
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        return self.answers.pop(0) if self.answers else web.Response(status=204)


@asynccontextmanager
async def customer_server() -> AsyncIterator[Customer]:
    customer = Customer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", customer.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    customer.port = runner.addresses[0][1]
    yield customer
    await runner.cleanup()


def webhook_settings(port: int, **changes: Any) -> WebhookSettings:
    """Loopback and the customer's port are allowed; a hanging customer costs 0.3 s."""
    egress = EgressSettings(allow_insecure=True, allowed_ports=(443, port), allowed_networks=(LOOPBACK,))
    fields = {"egress": egress, "attempt_timeout": 0.3, "connect_timeout": 0.2, "slow_after": 0.2, "jitter": 0.0}
    return WebhookSettings(**(fields | changes))


@dataclass(slots=True)
class Webhooks:
    """The service under test with its database, its API, its sender, and one customer."""

    database: Database
    redis: Redis
    client_of: Callable[..., httpx.AsyncClient]
    customer: Customer
    settings: WebhookSettings
    sender: WebhookSender
    suspect_slots: Bulkhead = field(default_factory=lambda: Bulkhead("suspect_customers", limit=1))
    database_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(5))

    async def create(self, *, client: str = SHOP, key: str | None = None, **changes: Any) -> Json:
        """A new endpoint, the customer's server, as its client sees it."""
        async with self.client_of(client) as http:
            answer = await http.post(
                "/v1/webhook-endpoints",
                json={"url": self.customer.url} | changes,
                headers={"Idempotency-Key": key or uuid4().hex},
            )
        assert answer.status_code == 201, answer.text
        created: Json = answer.json()
        return created

    async def call(self, method: str, path: str, *, client: str = SHOP, **options: Any) -> httpx.Response:
        async with self.client_of(client) as http:
            return await http.request(method, f"/v1/{path}", **options)

    async def happen(self, *versions: int, order_id: UUID | None = None, **changes: object) -> UUID:
        """Events of one order's life: placed, confirmed, cancelled. Returns the order's id."""
        order_id = order_id or uuid4()
        await self.publish(*(order_event(order_id, version, **changes) for version in versions))
        return order_id

    async def publish(self, *envelopes: str) -> None:
        handlers = dict[type[Event], Any].fromkeys(ORDER_EVENTS, on_order)
        await deliver(self.redis, self.database, handlers, *envelopes, stream=ORDERS_STREAM)

    async def attempt(self, random: Callable[[], float] = random.random) -> Exception | None:
        """One attempt at the job `deliver_webhook` that is due first; mails are none of these tests' business."""
        await execute(self.database, "DELETE FROM job WHERE name = 'send_mail'")
        tools = jobs.DeliveryTools(
            database=self.database,
            sender=self.sender,
            suspect_slots=self.suspect_slots,
            database_slots=self.database_slots,
            settings=self.settings,
            random=random,
        )
        return await attempt(self.database, DeliverWebhook, partial(jobs.deliver_webhook, tools))

    async def work(self) -> None:
        """Until no job is due."""
        await execute(self.database, "DELETE FROM job WHERE name = 'send_mail'")
        while (await one(self.database, "SELECT count(*) AS due FROM job WHERE run_at <= now()")).due:
            assert await self.attempt() is None

    async def pass_time(self) -> float:
        """What waits is due now. Returns how many seconds the delivery that is first would have waited."""
        first = await one(
            self.database,
            "SELECT extract(epoch FROM next_attempt_at - now())::float8 AS waits"
            " FROM webhook_delivery WHERE status = 'pending' ORDER BY sequence LIMIT 1",
        )
        await execute(
            self.database,
            "UPDATE webhook_endpoint SET failing_since = failing_since - make_interval(secs => :waited)",
            waited=max(0.0, first.waits),
        )
        await execute(self.database, "UPDATE webhook_delivery SET next_attempt_at = now() WHERE status = 'pending'")
        await execute(self.database, "UPDATE job SET run_at = now()")
        seconds: float = first.waits
        return seconds

    async def delivery(self) -> Row[Any]:
        """The only one."""
        return await one(self.database, "SELECT * FROM webhook_delivery")


def order_event(order_id: UUID, version: int, **changes: object) -> str:
    """The event of an order's life at that version, as it is published."""
    event = KINDS[version](**(_FIELDS | {"order_id": order_id} | changes))
    return envelope(event, aggregate_id=order_id, version=version)


def order_placed(order_id: UUID) -> OrderPlaced:
    return OrderPlaced(**(_FIELDS | {"order_id": order_id}))


_FIELDS: Json = {
    "client_id": SHOP,
    "customer_email": "ada@example.com",
    "amount": 12898,
    "currency": "EUR",
    "reason": None,
}
