"""What orders is measured against answers what orders answers: same bodies, same statements, same rows."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import httpx
import pytest
from backends import FreshDatabase
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.pooling import Database
from harness import AUTH, SHOP, UNLIMITED, count, own_service, running
from holdfast_local.settings import PROJECT
from orders.api import create_app
from orders.settings import OrdersSettings

ORDER = {
    "lines": [{"product_id": "rope", "quantity": 2}, {"product_id": "cleat", "quantity": 1}],
    "customer_email": "ada@example.com",
    "payment_method": "pm_card_ok",
}
TABLES = ("orders", "order_line", "job", "outbox", "idempotency_record")


@dataclass(frozen=True, slots=True)
class Both:
    """Orders and the bare application over the same database."""

    orders: httpx.AsyncClient
    bare: httpx.AsyncClient
    database: Database


@pytest.fixture
async def both(
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
    patient_redis: RedisSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Both]:
    monkeypatch.syspath_prepend(str(PROJECT / "loadtest/benchmarks/http"))
    import bare

    database = await empty_database("orders")
    password = database.password.get_secret_value()
    dsn = f"postgresql://{database.user}:{password}@{database.host}:{database.port}/{database.name}"
    monkeypatch.setenv("BARE_DSN", dsn)
    monkeypatch.setattr(bare, "CLIENT", SHOP)  # it knows no keys: whoever asks is this one
    settings = OrdersSettings(
        database=database,
        redis=patient_redis,
        auth=AUTH,
        rate_limit=UNLIMITED,
        payments=own_service("http://127.0.0.1:1"),
    )
    application = bare.create_app()
    async with (
        running(create_app(Live(settings))) as client_of,
        application.router.lifespan_context(application),
        client_of() as orders,
        httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://bare") as client,
    ):
        yield Both(orders, client, open_database(database))


async def test_both_answer_the_same_product(both: Both) -> None:
    ours, bare = await both.orders.get("/v1/products/rope"), await both.bare.get("/v1/products/rope")
    assert ours.status_code == bare.status_code == 200
    assert ours.content == bare.content


async def test_both_place_orders_that_differ_in_nothing_but_ids_and_times(both: Both) -> None:
    answers, rows = [], []
    for client in (both.orders, both.bare):
        before = [await count(both.database, table) for table in TABLES]
        first, again = [
            await client.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": f"key-{id(client)}"})
            for _ in range(2)
        ]
        assert first.status_code == again.status_code == 201
        assert first.content == again.content
        answers.append(first.json())
        after = [await count(both.database, table) for table in TABLES]
        rows.append([new - old for new, old in zip(after, before, strict=True)])
    own = {"id", "created_at", "updated_at"}
    ours, bare = ({name: value for name, value in each.items() if name not in own} for each in answers)
    assert ours == bare
    assert list(answers[0]) == list(answers[1])
    assert rows == [[1, 2, 1, 1, 1]] * 2


async def test_both_find_the_same_order_and_know_nothing_of_one_that_is_not_there(both: Both) -> None:
    placed = await both.bare.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": "key-1"})
    path = f"/v1/orders/{placed.json()['id']}"
    ours, bare = await both.orders.get(path), await both.bare.get(path)
    assert ours.status_code == bare.status_code == 200
    assert ours.content == bare.content
    nowhere = "/v1/orders/0193b5a0-0000-7000-8000-000000000000"
    assert (await both.orders.get(nowhere)).status_code == (await both.bare.get(nowhere)).status_code == 404
