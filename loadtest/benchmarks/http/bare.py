"""The same three endpoints as a bare application: FastAPI, asyncpg and nothing else. What orders is measured against.

It answers what orders answers, from the same models and with the same statements in the same transactions. It has no
keys, limits, deadlines, metrics, spans or logs, and reads its products once, into a dict.

    BARE_DSN=postgresql://… uvicorn --factory bare:create_app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

import asyncpg
from chassis.events.outbox import event_row
from chassis.jobs import job_row
from chassis.pooling.session import inserting
from chassis.pooling.statements import DriverStatement, load_statements
from chassis.retries.idempotency import STATEMENTS as KEYS
from chassis.retries.idempotency import IdempotencyKey, StoredAnswer, answer_row, fingerprint
from fastapi import FastAPI, Header, HTTPException, Request, Response
from orders.messages import STREAM, OrderPlaced, RequestPayment
from orders.schemas import OrderLineView, OrderView, PlaceOrder, ProductView

CLIENT = "bench"
CONNECTIONS = 10
"""To the database, as many as orders has here."""

_SQL = {name: DriverStatement.of(sql) for name, sql in load_statements("orders.sql", package="orders").items()}


def create_app() -> FastAPI:
    products: dict[str, ProductView] = {}
    pool: asyncpg.Pool

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal pool
        async with asyncpg.create_pool(os.environ["BARE_DSN"], min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
            for row in await pool.fetch("SELECT id, name, price, currency FROM product"):
                products[row["id"]] = ProductView(**row)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/v1/products/{product_id}")
    async def get_product(product_id: str) -> ProductView:
        if product_id not in products:
            raise HTTPException(404)
        return products[product_id]

    @app.get("/v1/orders/{order_id}")
    async def get_order(order_id: UUID) -> OrderView:
        async with pool.acquire() as connection:
            rows = await _SQL["find"].fetch(connection, order_id=order_id, client=CLIENT)
        if not rows:
            raise HTTPException(404)
        return OrderView(**rows[0], lines=[OrderLineView(**row) for row in rows])

    @app.post("/v1/orders", status_code=201, response_model=OrderView)
    async def place_order(
        order: PlaceOrder, request: Request, key: Annotated[str, Header(alias="Idempotency-Key")]
    ) -> Response:
        asked = fingerprint(request.method, request.scope["path"], await request.body())
        async with pool.acquire() as connection, connection.transaction():
            status, body = await _place(connection, order, key, asked, products)
        return Response(body, status_code=status, media_type="application/json")

    return app


async def _place(
    connection: asyncpg.Connection, order: PlaceOrder, key: str, asked: bytes, products: dict[str, ProductView]
) -> tuple[int, bytes]:
    (found,) = await KEYS["find"].fetch(connection, client=CLIENT, key=key)
    if not found["is_held"]:
        raise HTTPException(409)
    if found["fingerprint"] is not None:
        if found["fingerprint"] != asked:
            raise HTTPException(422)
        return found["status"], found["body"]
    if any(line.product_id not in products for line in order.lines):
        raise HTTPException(422)
    lines = [
        OrderLineView(product_id=line.product_id, quantity=line.quantity, unit_price=products[line.product_id].price)
        for line in order.lines
    ]
    (row,) = await _SQL["place"].fetch(
        connection,
        client=CLIENT,
        key=key,
        customer_email=order.customer_email,
        amount=sum(line.unit_price * line.quantity for line in lines),
        currency=products[order.lines[0].product_id].currency,
        payment_method=order.payment_method,
        products=[line.product_id for line in lines],
        quantities=[line.quantity for line in lines],
        prices=[line.unit_price for line in lines],
    )
    placed = OrderView(**row, lines=lines)
    answer = StoredAnswer(201, placed.model_dump_json().encode())
    event = OrderPlaced(
        order_id=placed.id,
        client_id=CLIENT,
        customer_email=order.customer_email,
        status=placed.status,
        amount=placed.amount,
        currency=placed.currency,
        reason=None,
    )
    sql, values = inserting(
        job_row(RequestPayment(order_id=placed.id)),
        event_row(event, stream=STREAM, aggregate_id=placed.id, aggregate_version=1),
        answer_row(IdempotencyKey(CLIENT, key, asked), answer),
    )
    await connection.execute(sql, *values)
    return answer.status, answer.body
