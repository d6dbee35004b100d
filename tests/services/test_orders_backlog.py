"""The door of orders: while the accepted orders would take too long, a new order gets a 503, and all else goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from backends import FreshDatabase
from chassis.app.api.backlog import Admission, backlog_age, backlog_rate, backlog_seconds, refused
from chassis.config import Live
from chassis.config.settings import BacklogSettings, DatabaseSettings, RedisSettings
from chassis.pooling import Database
from harness import AUTH, UNLIMITED, count, execute, own_service, running
from orders.api import BACKLOG, create_app
from orders.settings import OrdersSettings
from redis.asyncio import Redis
from waiting import eventually

ORDER = {
    "lines": [{"product_id": "rope", "quantity": 2}],
    "customer_email": "ada@example.com",
    "payment_method": "pm_card_ok",
}
FULL = 75  # half of the promise of 30 s, at the minimum rate of 5 orders/s


@dataclass(frozen=True, slots=True)
class Door:
    """An API of orders and its database."""

    settings: OrdersSettings
    database: Database
    client: httpx.AsyncClient

    async def place(self, key: str, **changes: str) -> httpx.Response:
        return await self.client.post("/v1/orders", json=ORDER | changes, headers={"Idempotency-Key": key})


@pytest.fixture
async def settings(empty_database: FreshDatabase, patient_redis: RedisSettings, redis: Redis) -> OrdersSettings:
    return OrdersSettings(
        database=await empty_database("orders"),
        redis=patient_redis,
        auth=AUTH,
        rate_limit=UNLIMITED,
        payments=own_service("http://nobody-asks"),
    )


@pytest.fixture
async def door(settings: OrdersSettings, open_database: Callable[[DatabaseSettings], Database]) -> AsyncIterator[Door]:
    database = open_database(settings.database)
    async with opened(settings, database) as one:
        yield one


@asynccontextmanager
async def opened(settings: OrdersSettings, database: Database) -> AsyncIterator[Door]:
    async with running(create_app(Live(settings))) as client_of, client_of() as client:
        yield Door(settings, database, client)


async def add(database: Database, orders: int, *, status: str = "pending", age: float = 0) -> None:
    """Orders that were placed `age` seconds ago, and got their status just now."""
    await execute(
        database,
        "INSERT INTO orders (client_id, idempotency_key, customer_email, amount, currency, payment_method, status, "
        "created_at) SELECT 'other', n::text, 'ada@example.com', 1, 'EUR', 'pm_card_ok', :status, "
        "now() - make_interval(secs => :age) FROM generate_series(1, :orders) AS n",
        orders=orders,
        status=status,
        age=age,
    )


async def finish(database: Database, orders: int) -> None:
    await execute(
        database,
        "UPDATE orders SET status = 'confirmed', updated_at = now() WHERE id = ANY (ARRAY ("
        "SELECT id FROM orders WHERE status = 'pending' ORDER BY id LIMIT :orders))",
        orders=orders,
    )


def gets(door: Door, status: int) -> Callable[[], Awaitable[httpx.Response | None]]:
    """Places orders under new keys until the answer has this status."""
    numbers = iter(range(10_000))

    async def place() -> httpx.Response | None:
        answer = await door.place(f"try-{status}-{next(numbers)}")
        return answer if answer.status_code == status else None

    return place


async def test_the_door_closes_by_time_says_when_it_opens_and_opens_by_time(door: Door) -> None:
    await add(door.database, 4 * FULL)
    refusal = await eventually(gets(door, 503))
    assert refusal.json()["error"]["code"] == "OVERLOADED"
    assert refusal.json()["error"]["retryable"]
    waiting = await count(door.database, "orders")  # with a few that came before the first measurement
    assert int(refusal.headers["Retry-After"]) == pytest.approx(waiting / 5 - 12, abs=2)
    await finish(door.database, 4 * FULL)
    assert await eventually(gets(door, 201))


async def test_the_same_number_of_orders_is_no_backlog_for_a_platform_that_finishes_them_fast(door: Door) -> None:
    await add(door.database, 1200, status="confirmed")  # 40/s in the last 30 s
    await eventually(_measured(lambda: backlog_rate._value.get() == 40))
    await add(door.database, 4 * FULL)
    await eventually(_measured(lambda: backlog_seconds._value.get() == pytest.approx(4 * FULL / 40, abs=0.1)))
    assert (await door.place("one-more")).status_code == 201


async def test_after_the_database_clock_was_set_back_later_times_are_no_rate(door: Door) -> None:
    await add(door.database, 1200, status="confirmed")
    await execute(door.database, "UPDATE orders SET updated_at = now() + interval '1 hour'")
    await add(door.database, 4 * FULL)
    await eventually(gets(door, 503))


async def test_while_the_door_is_closed_an_accepted_order_keeps_its_answer_and_reads_and_cancellations_go_on(
    door: Door,
) -> None:
    first = await door.place("mine")
    assert first.status_code == 201
    await add(door.database, 4 * FULL)
    await eventually(gets(door, 503))
    again = await door.place("mine")
    assert (again.status_code, again.content) == (201, first.content)
    other = await door.place("mine", payment_method="pm_card_declined")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    order = f"/v1/orders/{first.json()['id']}"
    assert (await door.client.get(order)).status_code == 200
    assert (await door.client.get("/v1/orders")).status_code == 200
    assert (await door.client.post(f"{order}/cancel")).status_code == 202


async def test_a_refused_order_leaves_its_key_free_and_writes_nothing(door: Door) -> None:
    await add(door.database, 4 * FULL)
    await eventually(gets(door, 503))
    before = await count(door.database, "orders")
    assert (await door.place("later")).status_code == 503
    assert await count(door.database, "orders") == before
    await finish(door.database, 4 * FULL)
    await eventually(gets(door, 201))
    assert (await door.place("later")).status_code == 201


async def test_orders_that_wait_for_a_person_or_an_outage_for_long_do_not_keep_the_door_closed(door: Door) -> None:
    await add(door.database, 4 * FULL, age=301)
    await add(door.database, 3, age=42)
    await eventually(_measured(lambda: backlog_age._value.get() == pytest.approx(42, abs=3)))
    assert (await door.place("one-more")).status_code == 201


async def test_two_replicas_decide_alike(door: Door) -> None:
    async with opened(door.settings, door.database) as other:
        await add(door.database, 4 * FULL)
        await asyncio.gather(eventually(gets(door, 503)), eventually(gets(other, 503)))
        await finish(door.database, 5 * FULL)
        await asyncio.gather(eventually(gets(door, 201)), eventually(gets(other, 201)))


async def test_a_burst_between_two_measurements_is_bounded_too(door: Door) -> None:
    admission = Admission(door.database, BACKLOG, BacklogSettings)
    await admission.measure()
    before = refused._value.get()
    errors = [admission.refusal() for _ in range(FULL + 5)]
    assert [error is None for error in errors] == [True] * FULL + [False] * 5
    assert refused._value.get() == before + 5


async def test_a_measurement_that_is_too_old_refuses_nothing(
    settings: OrdersSettings, open_database: Callable[[DatabaseSettings], Database]
) -> None:
    now = 0.0
    database = open_database(settings.database)
    admission = Admission(database, BACKLOG, BacklogSettings, clock=lambda: now)
    await add(database, FULL)
    await admission.measure()
    assert admission.refusal() is not None
    now = 15.1
    assert admission.refusal() is None


def _measured(look: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def find() -> bool:
        return look()

    return find
