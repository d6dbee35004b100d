"""The plain saga: three APIs and four workers that do what the platform does to an order, and no more.

Work and events commit with what causes them, as rows of `task`; a worker deletes the row in the transaction of its
effects. So an order survives a crash, after which a mail may be written twice. There is no lease (a transaction stays
open during a call), no attempt is counted, nothing is delayed after a failure (the process ends, and its supervisor
starts it again), and there are no keys, dead letters, limits, deadlines, breakers, traces or metrics.

With a `batch` of more than one, as many jobs, or events of one read, share a transaction, and one failure repeats all
of them. That is the least that this saga costs.
"""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from email.message import EmailMessage
from functools import partial
from typing import Any
from uuid import UUID

import aiohttp
import aiosmtplib
import orm
import sql
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from standardwebhooks import Webhook, WebhookVerificationError

CONNECTIONS = 10
TASKS_AT_ONCE = 4
POLL_SECONDS = 0.25
EVENTS_AT_ONCE = 10
BATCH = 20

type Store = orm.Store | sql.Store
type Transaction = orm.Transaction | sql.Transaction
type Handler = Callable[..., Awaitable[None]]
"""Called with the transaction, and the payload as keyword arguments."""


class Line(BaseModel):
    product_id: str
    quantity: int


class LineView(Line):
    unit_price: int


class PlaceOrder(BaseModel):
    lines: list[Line]
    customer_email: str
    payment_method: str


class OrderView(BaseModel):
    id: UUID
    status: str
    amount: int
    currency: str
    lines: list[LineView]
    created_at: datetime


class PaymentRequest(BaseModel):
    order_id: UUID
    amount: int
    currency: str
    payment_method: str


def orders_api(store: Store, app: FastAPI) -> None:
    @app.post("/v1/orders", status_code=201)
    async def place_order(order: PlaceOrder) -> OrderView:
        async with store.transaction() as transaction:
            products = await transaction.products([line.product_id for line in order.lines])
            if any(line.product_id not in products for line in order.lines):
                raise HTTPException(422, "There is no such product.")
            lines = [LineView(**line.model_dump(), unit_price=products[line.product_id][0]) for line in order.lines]
            values = {
                "customer_email": order.customer_email,
                "payment_method": order.payment_method,
                "amount": sum(line.unit_price * line.quantity for line in lines),
                "currency": products[order.lines[0].product_id][1],
            }
            order_id, created_at = await transaction.add_order(values, [line.model_dump() for line in lines])
            await transaction.add_task("request_payment", {"order_id": str(order_id)})
            await _publish(transaction, "orders", "order.placed", _order_event(order_id, values))
        return OrderView(
            id=order_id,
            status="pending",
            amount=values["amount"],
            currency=values["currency"],
            lines=lines,
            created_at=created_at,
        )


def payments_api(store: Store, app: FastAPI) -> None:
    @app.post("/v1/payments", status_code=201)
    async def request_payment(payment: PaymentRequest) -> None:
        async with store.transaction() as transaction:
            if await transaction.add_payment(payment.model_dump()):
                await transaction.add_task("charge", {"order_id": str(payment.order_id)})


def webhook_ingest_api(store: Store, app: FastAPI) -> None:
    webhook = Webhook(os.environ["PLAIN_WEBHOOK_SECRET"])

    @app.post("/v1/webhooks/payment-provider")
    async def receive_webhook(request: Request) -> None:
        body = await request.body()
        try:
            webhook.verify(body, dict(request.headers))
        except WebhookVerificationError as error:
            raise HTTPException(401) from error
        event_id = request.headers["webhook-id"]
        async with store.transaction() as transaction:
            await transaction.add_provider_event(event_id, body)
            await transaction.add_task("read_provider_event", {"event_id": event_id})


APIS: Mapping[str, Callable[[Store, FastAPI], None]] = {
    "orders": orders_api,
    "payments": payments_api,
    "webhook-ingest": webhook_ingest_api,
}


def create_api(service: str, open_store: Callable[[], Any]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_store() as store:
            APIS[service](store, app)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/readyz")
    async def get_readiness() -> None:
        return None

    return app


class Saga:
    """The workers' steps, with what they call."""

    def __init__(self, redis: Redis, http: aiohttp.ClientSession) -> None:
        self._redis = redis
        self._http = http

    async def publish(self, _transaction: Transaction, *, stream: str, event: dict[str, Any]) -> None:
        await self._redis.xadd(f"plain:{stream}", {"event": json.dumps(event)}, maxlen=10_000, approximate=True)

    async def request_payment(self, transaction: Transaction, *, order_id: str) -> None:
        order = await transaction.order(UUID(order_id))
        payment = {name: order[name] for name in ("amount", "currency", "payment_method")}
        url = f"{os.environ['PLAIN_PAYMENTS_URL']}/v1/payments"
        async with self._http.post(url, json={"order_id": order_id, **payment}) as answer:
            answer.raise_for_status()

    async def charge(self, transaction: Transaction, *, order_id: str) -> None:
        payment = await transaction.payment(UUID(order_id))
        charge = {name: payment[name] for name in ("amount", "currency", "payment_method")}
        async with self._http.post(
            f"{os.environ['PLAIN_PROVIDER_URL']}/charges",
            json={"reference": order_id, **charge},
            headers={
                "Authorization": f"Bearer {os.environ['PLAIN_PROVIDER_KEY']}",
                "Idempotency-Key": f"charge:{order_id}",
            },
        ) as answer:
            answer.raise_for_status()
            await transaction.submit_payment(UUID(order_id), (await answer.json())["id"])

    async def read_provider_event(self, transaction: Transaction, *, event_id: str) -> None:
        event = json.loads(await transaction.provider_event(event_id))
        await _publish(transaction, "provider", event["type"], {"order_id": event["data"]["reference"]})

    async def send_mail(self, transaction: Transaction, *, mail_id: str) -> None:
        mail = await transaction.mail(UUID(mail_id))
        message = EmailMessage()
        message["From"], message["To"] = "orders@example.com", mail["recipient"]
        message["Subject"], message["Message-ID"] = mail["subject"], f"<{mail_id}@example.com>"
        message.set_content(mail["text"])
        await aiosmtplib.send(message, hostname="127.0.0.1", port=int(os.environ["PLAIN_SMTP_PORT"]))
        await transaction.settle_mail(UUID(mail_id))


async def on_charge_succeeded(transaction: Transaction, *, order_id: str) -> None:
    await transaction.capture_payment(UUID(order_id))
    await _publish(transaction, "payments", "payment.captured", {"order_id": order_id})


async def on_payment_captured(transaction: Transaction, *, order_id: str) -> None:
    order = await transaction.confirm_order(UUID(order_id))
    await _publish(transaction, "orders", "order.confirmed", _order_event(UUID(order_id), order))


async def _write_mail(
    transaction: Transaction, *, subject: str, order_id: str, customer_email: str, amount: int, currency: str
) -> None:
    text = f"{subject}: {amount / 100:.2f} {currency}.\n\nOrder {order_id}\n"
    mail = {"order_id": UUID(order_id), "recipient": customer_email, "subject": subject, "text": text}
    await transaction.add_task("send_mail", {"mail_id": str(await transaction.add_mail(mail))})


EVENTS: Mapping[str, tuple[str, Mapping[str, Handler]]] = {
    "payments": ("provider", {"charge.succeeded": on_charge_succeeded}),
    "orders": ("payments", {"payment.captured": on_payment_captured}),
    "notifications": (
        "orders",
        {
            "order.placed": partial(_write_mail, subject="We have your order"),
            "order.confirmed": partial(_write_mail, subject="Your order is confirmed"),
        },
    ),
}
"""By service: the stream that it reads, and what it does about each type of event there."""


async def run_worker(service: str, store: Store, *, batch: int = 1) -> None:
    redis: Redis = Redis.from_url(os.environ["PLAIN_REDIS"], decode_responses=True)
    async with redis, aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        saga = Saga(redis, http)
        for _ in range(TASKS_AT_ONCE):
            group.create_task(_run_tasks(store, saga, batch))
        if service in EVENTS:
            group.create_task(_consume(store, redis, service, batch))


async def _run_tasks(store: Store, saga: Saga, batch: int) -> None:
    while True:
        async with store.transaction() as transaction:
            tasks = await transaction.take_tasks(batch)
            await asyncio.gather(*(getattr(saga, kind)(transaction, **payload) for kind, payload in tasks))
        if not tasks:
            await asyncio.sleep(POLL_SECONDS)


async def _consume(store: Store, redis: Redis, service: str, batch: int) -> None:
    stream, handlers = EVENTS[service]
    key = f"plain:{stream}"
    with suppress(ResponseError):  # the group is there: this is a restart
        await redis.xgroup_create(key, service, id="0", mkstream=True)
    position = "0"  # first what a crash left unacknowledged, then what is new
    while True:
        found: Any = await redis.xreadgroup(service, "worker", {key: position}, count=EVENTS_AT_ONCE, block=1000)
        messages = found[0][1] if found else []
        if not messages:
            position = ">"
        for some in itertools.batched(messages, batch, strict=False):
            events = [json.loads(fields["event"]) for _, fields in some]
            events = [event for event in events if event["type"] in handlers]
            if events:
                async with store.transaction() as transaction:
                    for event in events:
                        await handlers[event["type"]](transaction, **event["payload"])
            await redis.xack(key, service, *(message_id for message_id, _ in some))


async def _publish(transaction: Transaction, stream: str, event_type: str, payload: dict[str, Any]) -> None:
    event = {"type": event_type, "payload": payload}
    await transaction.add_task("publish", {"stream": stream, "event": event})


def _order_event(order_id: UUID, order: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: order[name] for name in ("customer_email", "amount", "currency")}
    return {"order_id": str(order_id), **told}
