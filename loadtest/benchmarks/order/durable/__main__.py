"""The saga as durable workflows of dbos: one process, one workflow for each order; `python durable migrate|serve`.

dbos records each step's result in PostgreSQL, and runs a workflow on from its last recorded step after a crash. The
webhook reaches its workflow as a message. Each service's tables and API, and the events between services, have no
counterpart here.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any
from uuid import UUID

import aiohttp
import aiosmtplib
import asyncpg
import uvicorn
from dbos import DBOS, DBOSConfig, SetWorkflowID
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel
from standardwebhooks import Webhook, WebhookVerificationError

PATIENCE_SECONDS = 900.0
TABLES = """
CREATE TABLE IF NOT EXISTS product (id text PRIMARY KEY, price bigint NOT NULL, currency text NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
    id uuid PRIMARY KEY DEFAULT uuidv7(), customer_email text NOT NULL, payment_method text NOT NULL,
    status text NOT NULL DEFAULT 'pending', amount bigint NOT NULL, currency text NOT NULL,
    lines jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO product VALUES ('rope', 1999, 'EUR'), ('cleat', 1450, 'EUR') ON CONFLICT DO NOTHING
"""
PLACE = """
INSERT INTO orders (customer_email, payment_method, amount, currency, lines)
VALUES ($1, $2, $3, $4, $5) RETURNING id, created_at
"""


class Line(BaseModel):
    product_id: str
    quantity: int


class PlaceOrder(BaseModel):
    lines: list[Line]
    customer_email: str
    payment_method: str


pool: asyncpg.Pool
http: aiohttp.ClientSession


@DBOS.workflow()
async def fulfil(order: dict[str, Any]) -> None:
    """From the order that was placed to its last mail."""
    await send_mail(order, "We have your order")
    await charge(order)
    if await DBOS.recv_async("payment", timeout_seconds=PATIENCE_SECONDS) == "charge.succeeded":
        await confirm(order["id"])
        await send_mail(order, "Your order is confirmed")


@DBOS.step()
async def charge(order: dict[str, Any]) -> str:
    async with http.post(
        f"{os.environ['PLAIN_PROVIDER_URL']}/charges",
        json={"reference": order["id"], **{name: order[name] for name in ("amount", "currency", "payment_method")}},
        headers={
            "Authorization": f"Bearer {os.environ['PLAIN_PROVIDER_KEY']}",
            "Idempotency-Key": f"charge:{order['id']}",
        },
    ) as answer:
        answer.raise_for_status()
        charge_id: str = (await answer.json())["id"]
        return charge_id


@DBOS.step()
async def confirm(order_id: str) -> None:
    await pool.execute("UPDATE orders SET status = 'confirmed' WHERE id = $1", UUID(order_id))


@DBOS.step()
async def send_mail(order: dict[str, Any], subject: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "orders@example.com", order["customer_email"], subject
    message["Message-ID"] = f"<{order['id']}.{DBOS.step_id}@example.com>"
    message.set_content(f"{subject}: {order['amount'] / 100:.2f} {order['currency']}.\n\nOrder {order['id']}\n")
    await aiosmtplib.send(message, hostname="127.0.0.1", port=int(os.environ["PLAIN_SMTP_PORT"]))


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    global pool, http
    async with asyncpg.create_pool(os.environ["PLAIN_DSN"]) as pool, aiohttp.ClientSession() as http:
        DBOS.launch()
        yield
        DBOS.destroy()


app = FastAPI(lifespan=lifespan)
webhook = Webhook(os.environ["PLAIN_WEBHOOK_SECRET"])


@app.get("/readyz")
async def get_readiness() -> None:
    return None


@app.post("/v1/orders", status_code=201)
async def place_order(order: PlaceOrder) -> dict[str, Any]:
    """The order's row and its workflow commit one after the other: a crash in between leaves a row alone."""
    rows = await pool.fetch("SELECT * FROM product WHERE id = ANY ($1)", [line.product_id for line in order.lines])
    products = {row["id"]: row for row in rows}
    if any(line.product_id not in products for line in order.lines):
        raise HTTPException(422, "There is no such product.")
    lines = [{**line.model_dump(), "unit_price": products[line.product_id]["price"]} for line in order.lines]
    amount = sum(line["unit_price"] * line["quantity"] for line in lines)
    currency = rows[0]["currency"]
    row = await pool.fetchrow(PLACE, order.customer_email, order.payment_method, amount, currency, json.dumps(lines))
    about = {"id": str(row["id"]), "amount": amount, "currency": currency}
    with SetWorkflowID(about["id"]):
        await DBOS.start_workflow_async(fulfil, {**order.model_dump(exclude={"lines"}), **about})
    return {**about, "status": "pending", "lines": lines, "created_at": row["created_at"]}


@app.post("/v1/webhooks/payment-provider")
async def receive_webhook(request: Request) -> None:
    try:
        event = webhook.verify(await request.body(), dict(request.headers))
    except WebhookVerificationError as error:
        raise HTTPException(401) from error
    key = request.headers["webhook-id"]
    await DBOS.send_async(event["data"]["reference"], event["type"], "payment", idempotency_key=key)


async def create_tables() -> None:
    connection = await asyncpg.connect(os.environ["PLAIN_DSN"])
    await connection.execute(TABLES)
    await connection.close()


def serve() -> None:
    """Orders and webhooks arrive at the two ports that the platform has for them."""
    config: DBOSConfig = {"name": "orders", "system_database_url": os.environ["PLAIN_DSN"]}
    DBOS(config=config)
    ports = [int(port) for port in os.environ["PLAIN_PORT"].split(",")]
    uvicorn.Server(uvicorn.Config(app)).run(sockets=[socket.create_server(("127.0.0.1", port)) for port in ports])


if __name__ == "__main__":
    if sys.argv[1] == "migrate":
        asyncio.run(create_tables())
    else:
        serve()
