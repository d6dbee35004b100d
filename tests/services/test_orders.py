"""Orders: placing is atomic and safe to repeat, and an order follows its payment whatever the news' way and order."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, get_args
from uuid import UUID, uuid4

import asyncpg
import httpx
import orjson
import pytest
from backends import FreshDatabase
from chassis.caching import Cache
from chassis.calls.quota import Quota
from chassis.circuit_breaker import BreakerRegistry
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.errors import (
    ApiError,
    DatabaseUnreachable,
    DependencyError,
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
    ErrorCode,
    LeaseLost,
    PermanentJobError,
)
from chassis.events.inbox import Undeliverable
from chassis.pooling import Database
from chassis.pooling.statements import DriverStatement
from chassis.retries.idempotency import IdempotencyKey
from harness import (
    AUTH,
    OTHER_SHOP,
    SHOP,
    UNLIMITED,
    FakeServer,
    attempt,
    count,
    deliver,
    dependency,
    envelope,
    events,
    execute,
    http_client,
    job_statuses,
    one,
    own_service,
    received,
    rows,
    running,
)
from holdfast_local.ports import free_port
from orders import caches, jobs, use_cases, worker
from orders.api import create_app
from orders.events import on_order, on_payment
from orders.messages import (
    PAYMENTS_STREAM,
    STREAM,
    OrderCancelled,
    OrderConfirmed,
    PaymentCanceled,
    PaymentCaptured,
    PaymentEvent,
    PaymentFailed,
    PaymentRefunded,
    RequestPayment,
    SettlePayment,
)
from orders.models import OrderRef, OrderStatus
from orders.payments_client import PaymentsClient
from orders.schemas import OrderView, PlaceOrder
from orders.settings import OrdersSettings
from orders.use_cases import PaymentNews, PaymentStatus, decide_payment
from redis.asyncio import Redis
from waiting import eventually

EVENTS: dict[str, type[PaymentEvent]] = {
    "captured": PaymentCaptured,
    "failed": PaymentFailed,
    "canceled": PaymentCanceled,
    "refunded": PaymentRefunded,
}


@dataclass(frozen=True, slots=True)
class Orders:
    """The service under test, its database, and its client."""

    settings: OrdersSettings
    database: Database
    redis: Redis
    cache: Cache[OrderView]
    client_of: Callable[..., httpx.AsyncClient]
    client: httpx.AsyncClient

    async def place(self, key: str | None = None, /, **changes: object) -> httpx.Response:
        return await self.client.post("/v1/orders", json=order(**changes), headers=keyed(key))

    async def send(self, body: object) -> httpx.Response:
        """Place what only a client with another JSON library can write, such as half a surrogate pair."""
        headers = keyed() | {"Content-Type": "application/json"}
        return await self.client.post("/v1/orders", content=json.dumps(body), headers=headers)

    async def placed(self, **changes: object) -> dict[str, Any]:
        response = await self.place(None, **changes)
        assert response.status_code == 201, response.text
        placed: dict[str, Any] = response.json()
        return placed

    async def row(self, order_id: str) -> Any:
        return await one(self.database, "SELECT * FROM orders WHERE id = :id", id=UUID(order_id))

    async def apply(
        self, payment_id: UUID, status: PaymentStatus, version: int, reason: str | None = None
    ) -> OrderRef | None:
        async with self.database.transaction() as session:
            return await use_cases.apply_payment(session, PaymentNews(payment_id, version, status, reason))

    async def deliver(self, *envelopes: str) -> None:
        handlers = [(kind, partial(on_payment, self.cache)) for kind in EVENTS.values()]
        await deliver(self.redis, self.database, handlers, *envelopes, stream=PAYMENTS_STREAM)


@pytest.fixture
async def orders(
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
    patient_redis: RedisSettings,
    redis: Redis,
    server: FakeServer,
) -> AsyncIterator[Orders]:
    settings = OrdersSettings(
        database=await empty_database("orders"),
        redis=patient_redis,
        auth=AUTH,
        rate_limit=UNLIMITED,
        payments=own_service(server.url),
    )
    cache = caches.orders(redis, settings)
    async with running(create_app(Live(settings))) as client_of, client_of() as client:
        yield Orders(settings, open_database(settings.database), redis, cache, client_of, client)
    await cache.close()


def order(**changes: object) -> dict[str, object]:
    return {
        "lines": [{"product_id": "rope", "quantity": 2}, {"product_id": "anchor"}],
        "customer_email": "ada@example.com",
        "payment_method": "pm_card_ok",
    } | changes


def keyed(key: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid4().hex}


def news_of(row: Any, status: str, version: int, reason: str | None = None) -> str:
    """The event of an order's payment, as payments publishes it."""
    event = EVENTS[status](
        payment_id=row.payment_id,
        order_id=row.id,
        status=status,
        amount=row.amount,
        currency=row.currency,
        reason=reason,
    )
    return envelope(event, aggregate_id=row.payment_id, version=version)


# Placing


async def test_placing_writes_order_lines_job_event_and_answer_together(orders: Orders) -> None:
    placed = await orders.place("key-1")
    body = placed.json()
    row = await orders.row(body["id"])
    assert (row.status, row.amount, row.currency, row.client_id) == ("pending", 2 * 1999 + 8900, "EUR", SHOP)
    lines = await rows(orders.database, "SELECT * FROM order_line ORDER BY position")
    assert [(line.product_id, line.quantity, line.unit_price) for line in lines] == [
        ("rope", 2, 1999),
        ("anchor", 1, 8900),
    ]
    job = await one(orders.database, "SELECT * FROM job")
    assert (job.name, job.payload) == ("request_payment", {"order_id": body["id"]})
    event = await one(orders.database, "SELECT * FROM outbox")
    assert (event.type, event.aggregate_version, event.aggregate_id) == ("order.placed", 1, body["id"])
    assert event.payload["customer_email"] == "ada@example.com"
    record = await one(orders.database, "SELECT * FROM idempotency_record")
    assert (record.client, record.key, record.status, record.body) == (SHOP, "key-1", 201, placed.content)


async def test_a_key_that_is_answered_after_this_request_looked_is_in_progress_and_orders_nothing(
    orders: Orders,
) -> None:
    """The look-up and the lock share a snapshot, and whoever commits between the two has given the lock back."""
    command = PlaceOrder.model_validate(order())
    key = IdempotencyKey(SHOP, "key-1", b"fingerprint")
    async with orders.database.read() as session:
        catalogue = await use_cases.list_products(session)

    async def place_too_late() -> None:
        async with orders.database.transaction() as session:
            fetch = session.fetch

            async def fetch_late(statement: DriverStatement, **values: object) -> list[asyncpg.Record]:
                found = await fetch(statement, **values)
                await execute(
                    orders.database,
                    "INSERT INTO idempotency_record VALUES (:client, 'key-1', :fingerprint, 201, '')"
                    " ON CONFLICT DO NOTHING",
                    client=SHOP,
                    fingerprint=b"fingerprint",
                )
                return found

            session.fetch = fetch_late
            await use_cases.place_order(session, command, key=key, catalogue=catalogue)

    with pytest.raises(ApiError) as refused:
        await place_too_late()
    assert refused.value.code is ErrorCode.IDEMPOTENCY_KEY_IN_PROGRESS
    assert await count(orders.database, "orders") == 0


async def test_a_transaction_killed_before_its_commit_leaves_nothing(orders: Orders) -> None:
    command = PlaceOrder.model_validate(order())
    key = IdempotencyKey(SHOP, "key-1", b"fingerprint")

    async def place_and_be_killed() -> None:
        async with orders.database.read() as session:
            catalogue = await use_cases.list_products(session)
        async with orders.database.transaction() as session:
            await use_cases.place_order(session, command, key=key, catalogue=catalogue)
            pid = await session.driver.fetchval("SELECT pg_backend_pid()")
            await rows(orders.database, "SELECT pg_terminate_backend(:pid)", pid=pid)

    with pytest.raises(DatabaseUnreachable):
        await place_and_be_killed()
    for table in ("orders", "order_line", "job", "outbox", "idempotency_record"):
        assert await count(orders.database, table) == 0
    # Nor is the key still held: a lease in a row would hold it now.
    assert (await orders.place("key-1")).status_code == 201


async def test_a_repeated_key_gets_the_first_answers_bytes_and_no_second_order(orders: Orders) -> None:
    first = await orders.place("key-1")
    row = await orders.row(first.json()["id"])
    await orders.apply(row.payment_id, "captured", 1)
    again = await orders.place("key-1")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert await count(orders.database, "orders") == 1
    assert await job_statuses(orders.database, "request_payment") == ["ready"]


async def test_twenty_requests_at_once_with_one_key_make_one_order(orders: Orders) -> None:
    answers = await asyncio.gather(*(orders.place("key-1") for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    created = {answer.content for answer in answers if answer.status_code == 201}
    assert len(created) == 1
    busy = [answer for answer in answers if answer.status_code == 409]
    assert all(answer.json()["error"]["code"] == "IDEMPOTENCY_KEY_IN_PROGRESS" for answer in busy)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in busy)
    assert await count(orders.database, "orders") == 1
    assert await count(orders.database, "job") == 1


async def test_a_key_used_with_another_payload_is_refused(orders: Orders) -> None:
    await orders.place("key-1")
    reused = await orders.place("key-1", payment_method="pm_card_declined")
    assert (reused.status_code, reused.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert await count(orders.database, "orders") == 1


async def test_the_same_payload_written_differently_is_the_same_payload(orders: Orders) -> None:
    first = await orders.place("key-1")
    body = b" " + orjson.dumps(dict(reversed(order().items())), option=orjson.OPT_INDENT_2)
    headers = keyed("key-1") | {"Content-Type": "application/json"}
    again = await orders.client.post("/v1/orders", content=body, headers=headers)
    assert again.content == first.content


async def test_a_key_belongs_to_its_client(orders: Orders) -> None:
    mine = await orders.place("key-1")
    async with orders.client_of(OTHER_SHOP) as other:
        theirs = await other.post("/v1/orders", json=order(), headers=keyed("key-1"))
    assert theirs.status_code == 201
    assert theirs.json()["id"] != mine.json()["id"]


async def test_a_refused_order_does_not_use_up_its_key(orders: Orders) -> None:
    refused = await orders.place("key-1", lines=[{"product_id": "unicorn"}])
    assert refused.status_code == 422
    assert (await orders.place("key-1")).status_code == 201


async def test_placing_without_a_key_is_refused(orders: Orders) -> None:
    for headers in ({}, {"Idempotency-Key": ""}, {"Idempotency-Key": "k" * 256}):
        answer = await orders.client.post("/v1/orders", json=order(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "IDEMPOTENCY_KEY_MISSING")


async def test_every_unknown_product_is_named(orders: Orders) -> None:
    lines = [{"product_id": name} for name in ("unicorn", "rope", "dragon", "nul\0")]
    answer = await orders.place(lines=lines)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "UNKNOWN_PRODUCT"
    details = answer.json()["error"]["details"]
    assert [(detail["field"], detail["received"]) for detail in details] == [
        ("lines.0.product_id", "unicorn"),
        ("lines.2.product_id", "dragon"),
        ("lines.3.product_id", "nul\0"),
    ]
    assert await count(orders.database, "orders") == 0


async def test_the_largest_order_is_taken(orders: Orders) -> None:
    placed = await orders.placed(lines=[{"product_id": "compass", "quantity": 1000}] * 50)
    assert placed["amount"] == 50 * 1000 * 12900
    page = await orders.client.get("/v1/orders")
    assert page.json()["items"][0]["amount"] == placed["amount"]


async def test_an_order_has_the_currency_of_its_lines(orders: Orders) -> None:
    """`alpine-tent` would be the catalogue's first product."""
    await execute(
        orders.database,
        "INSERT INTO product (id, name, price, currency)"
        " VALUES ('alpine-tent', 'Tent', 500, 'CHF'), ('x', 'X', 7, 'USD')",
    )
    swiss = await orders.placed(lines=[{"product_id": "alpine-tent", "quantity": 3}])
    assert (swiss["amount"], swiss["currency"]) == (1500, "CHF")
    assert (await orders.placed())["currency"] == "EUR"
    mixed = [{"product_id": name} for name in ("rope", "alpine-tent", "anchor", "x")]
    refused = await orders.place("mixed", lines=mixed)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "MIXED_CURRENCIES")
    assert [(detail["field"], detail["message"]) for detail in refused.json()["error"]["details"]] == [
        ("lines.1.product_id", "It is priced in CHF, the first line in EUR."),
        ("lines.3.product_id", "It is priced in USD, the first line in EUR."),
    ]
    assert (await orders.place("mixed", lines=mixed[:1])).status_code == 201
    assert await count(orders.database, "orders") == 3


async def test_the_largest_amount_is_taken_and_read_and_a_larger_one_is_refused(orders: Orders) -> None:
    largest = 2**53 - 1
    await execute(
        orders.database,
        "INSERT INTO product (id, name, price, currency) VALUES ('yacht', 'Yacht', :p, 'EUR')",
        p=largest,
    )
    placed = await orders.placed(lines=[{"product_id": "yacht"}])
    assert (await orders.client.get(f"/v1/orders/{placed['id']}")).json()["amount"] == largest
    for lines in ([{"product_id": "yacht", "quantity": 1000}] * 50, [{"product_id": "yacht"}, {"product_id": "rope"}]):
        refused = await orders.place(None, lines=lines)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "VALIDATION_FAILED")
        assert refused.json()["error"]["details"][0]["field"] == "lines"


NO_ADDRESSES = [
    "",
    "ada",
    "ada@",
    "ada@example",
    "@example.com",
    "ada@example.com\r\nBcc: eve@example.com",
    "ada\0@example.com",
    "ada\x1c@example.com",
    "ada\u2028@example.com",
    "ada\ud800@example.com",
    "eve@example.com,ada@example.com",
    "eve,ada@example.com",
    "Ada <ada@example.com>",
    "ada@example.com>",
    "(ada)ada@example.com",
    "a..da@example.com",
    "ädä@example.com",
    f"{'a' * 250}@example.com",
    17,
    None,
]


async def test_what_is_not_one_plain_address_is_refused(orders: Orders) -> None:
    for address in NO_ADDRESSES:
        answer = await orders.send(order(customer_email=address))
        assert answer.status_code == 422, address
        assert answer.json()["error"]["details"][0]["field"] == "customer_email"
    assert await count(orders.database, "orders") == 0


OTHER_SHAPES: list[dict[str, object]] = [
    {"lines": []},
    {"lines": [{"product_id": "rope"}] * 51},
    {"lines": [{"product_id": "rope", "quantity": 0}]},
    {"lines": [{"product_id": "rope", "quantity": 1001}]},
    {"lines": [{"product_id": "rope", "quantity": 10**30}]},
    {"lines": [{"product_id": "rope", "price": 1}]},
    {"lines": [{"product_id": "\ud800"}]},
    {"payment_method": "4242 4242 4242 4242"},
    {"amount": 1},
]


async def test_an_order_of_another_shape_is_refused_and_writes_nothing(orders: Orders) -> None:
    for changes in OTHER_SHAPES:
        answer = await orders.send(order(**changes))
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "VALIDATION_FAILED"), changes
    assert await count(orders.database, "orders") == 0


async def test_a_body_that_is_not_json_or_too_large_is_told_so(orders: Orders) -> None:
    headers = keyed() | {"Content-Type": "application/json"}
    for body in (b"{", b"\xff\xfe", b"[" * 20_000):
        assert (await orders.client.post("/v1/orders", content=body, headers=headers)).status_code == 400
    assert (await orders.client.post("/v1/orders", content=b" " * 70_000, headers=headers)).status_code == 413


# Reading


async def test_somebody_elses_order_is_answered_exactly_like_none(orders: Orders) -> None:
    placed = await orders.placed()
    async with orders.client_of(OTHER_SHOP) as other:
        theirs = await other.get(f"/v1/orders/{placed['id']}", headers={"X-Request-ID": "same"})
        none = await other.get(f"/v1/orders/{uuid4()}", headers={"X-Request-ID": "same"})
        assert (theirs.status_code, theirs.content) == (404, none.content)
        assert dict(theirs.headers) | {"ratelimit": ""} == dict(none.headers) | {"ratelimit": ""}
        assert (await other.get("/v1/orders")).json() == {"items": [], "next_cursor": None}
    # Also once it is in the cache.
    assert (await orders.client.get(f"/v1/orders/{placed['id']}")).json() == placed
    async with orders.client_of(OTHER_SHOP) as other:
        assert (await other.get(f"/v1/orders/{placed['id']}")).status_code == 404


async def test_without_a_key_nothing_is_shown(orders: Orders) -> None:
    async with orders.client_of(None) as nobody:
        for path in ("/v1/products", "/v1/orders", f"/v1/orders/{uuid4()}"):
            assert (await nobody.get(path)).status_code == 401
        assert (await nobody.post("/v1/orders", json=order(), headers=keyed())).status_code == 401


async def pages(client: httpx.AsyncClient, limit: int) -> AsyncIterator[list[str]]:
    cursor: str | None = None
    while True:
        parameters = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/orders", params=parameters)).json()
        yield [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return


async def test_pages_are_complete_without_gap_or_repeat_while_orders_arrive(orders: Orders) -> None:
    ids = [(await orders.placed())["id"] for _ in range(7)]
    async with orders.client_of(OTHER_SHOP) as other:
        await other.post("/v1/orders", json=order(), headers=keyed())
    seen: list[str] = []
    async for page in pages(orders.client, limit=3):
        assert 0 < len(page) <= 3
        seen += page
        await orders.placed()
    assert seen == ids[::-1]


async def test_a_full_last_page_is_the_last_one(orders: Orders) -> None:
    for _ in range(4):
        await orders.placed()
    assert [len(page) async for page in pages(orders.client, limit=2)] == [2, 2]


async def test_a_forged_cursor_is_refused(orders: Orders) -> None:
    for cursor in ("", "nonsense", "A" * 22 + "=", "A" * 21, "ä" * 22, "A" * 23, "A" * 64, "A" * 65, "\0"):
        answer = await orders.client.get("/v1/orders", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "VALIDATION_FAILED"), cursor
        assert answer.json()["error"]["details"][0]["field"] == "cursor"


async def test_a_cursor_shows_nobody_elses_orders(orders: Orders) -> None:
    for _ in range(3):
        await orders.placed()
    cursor = (await orders.client.get("/v1/orders", params={"limit": 1})).json()["next_cursor"]
    async with orders.client_of(OTHER_SHOP) as other:
        assert (await other.get("/v1/orders", params={"cursor": cursor})).json()["items"] == []


# News of payments


EXPECTED: dict[tuple[str, str], str] = {
    ("pending", "captured"): "confirmed",
    **{
        (order, payment): "cancelled"
        for order in ("pending", "cancelling")
        for payment in ("failed", "canceled", "refunded")
    },
}
"""The protocol's `apply_payment`: where news moves an order; every other pair moves it nowhere."""


def test_news_moves_an_order_as_the_protocol_says_and_only_when_it_is_newer() -> None:
    statuses: tuple[PaymentStatus, ...] = get_args(PaymentStatus.__value__)
    for state, status, version, seen in itertools.product(OrderStatus, statuses, range(4), range(4)):
        news = PaymentNews(uuid4(), version, status)
        expected = EXPECTED.get((state, status)) if version > seen else None
        assert decide_payment(state, seen=seen, news=news) == expected, (state, status, version, seen)


async def test_captured_confirms_and_failed_cancels_each_with_its_event(orders: Orders) -> None:
    paid, unpaid = [await orders.row((await orders.placed())["id"]) for _ in range(2)]
    await orders.deliver(news_of(paid, "captured", 1), news_of(unpaid, "failed", 1, "card_declined"))
    paid, unpaid = await orders.row(str(paid.id)), await orders.row(str(unpaid.id))
    assert (paid.status, paid.paid_amount, paid.reason) == ("confirmed", paid.amount, None)
    assert (unpaid.status, unpaid.paid_amount, unpaid.reason) == ("cancelled", 0, "card_declined")
    assert await events(orders.database, paid.id) == [(1, "order.placed"), (2, "order.confirmed")]
    assert await events(orders.database, unpaid.id) == [(1, "order.placed"), (2, "order.cancelled")]


async def test_late_repeated_and_out_of_order_news_changes_nothing(orders: Orders) -> None:
    row = await orders.row((await orders.placed())["id"])
    captured = news_of(row, "captured", 1)
    # A version is jumped: events carry the state, so the missing one is not waited for.
    refunded = news_of(row, "refunded", 2)
    await orders.deliver(refunded, captured, captured, refunded, news_of(row, "captured", 1))
    row = await orders.row(str(row.id))
    assert (row.status, row.payment_version, row.paid_amount) == ("cancelled", 2, 0)
    assert await events(orders.database, row.id) == [(1, "order.placed"), (2, "order.cancelled")]


async def test_captured_news_while_cancelling_is_kept_and_moves_nothing(orders: Orders) -> None:
    row = await orders.row((await orders.placed())["id"])
    await execute(orders.database, "UPDATE orders SET status = 'cancelling'")
    await orders.apply(row.payment_id, "captured", 1)
    row = await orders.row(str(row.id))
    assert (row.status, row.paid_amount, row.payment_version) == ("cancelling", row.amount, 1)
    await orders.apply(row.payment_id, "refunded", 2)
    row = await orders.row(str(row.id))
    assert (row.status, row.paid_amount, row.version) == ("cancelled", 0, 2)


async def test_unsettled_news_of_whatever_version_hides_no_later_news(orders: Orders) -> None:
    row = await orders.row((await orders.placed())["id"])
    unsettled: tuple[PaymentStatus, ...] = ("created", "submitting", "submitted")
    for status in unsettled:
        assert await orders.apply(row.payment_id, status, 1) is None
    await orders.apply(row.payment_id, "captured", 1)
    assert (await orders.row(str(row.id))).status == "confirmed"


async def test_the_same_news_from_answer_and_event_at_once_makes_one_event(orders: Orders) -> None:
    placed = [await orders.row((await orders.placed())["id"]) for _ in range(5)]
    told: tuple[tuple[PaymentStatus, int], ...] = (("captured", 1), ("captured", 1), ("refunded", 2), ("captured", 1))
    news = [orders.apply(row.payment_id, status, version) for row in placed for status, version in told]
    await asyncio.gather(*news)
    for row in placed:
        written = await events(orders.database, row.id)
        assert [version for version, _ in written] == [1, 2]
        final = await orders.row(str(row.id))
        assert (final.version, final.payment_version, final.paid_amount) == (2, 2, 0)


async def test_news_of_a_payment_that_no_order_has_is_a_dead_letter(orders: Orders) -> None:
    stranger = PaymentCaptured(
        payment_id=uuid4(), order_id=uuid4(), status="captured", amount=1, currency="EUR", reason=None
    )
    async with orders.database.transaction() as session:
        with pytest.raises(Undeliverable):
            await on_payment(orders.cache, session, received(stranger, aggregate_id=stranger.payment_id, version=1))
    await orders.deliver(envelope(stranger, aggregate_id=stranger.payment_id, version=1))
    dead = await one(orders.database, "SELECT * FROM dead_event")
    assert str(stranger.payment_id) in dead.reason


async def test_a_cached_order_is_not_seen_stale_after_a_payment_event(orders: Orders) -> None:
    placed = await orders.placed()
    path = f"/v1/orders/{placed['id']}"
    assert (await orders.client.get(path)).json()["status"] == "pending"
    await orders.deliver(news_of(await orders.row(placed["id"]), "captured", 1))

    async def is_confirmed() -> bool:
        return bool((await orders.client.get(path)).json()["status"] == "confirmed")

    await eventually(is_confirmed, seconds=2)


async def test_an_order_whose_invalidation_was_lost_is_invalidated_by_its_own_event(orders: Orders) -> None:
    placed = await orders.placed()
    path = f"/v1/orders/{placed['id']}"
    assert (await orders.client.get(path)).json()["status"] == "pending"
    row = await orders.row(placed["id"])
    await orders.apply(row.payment_id, "captured", 1)  # by a process that dies after its commit
    assert (await orders.client.get(path)).json()["status"] == "pending"

    told = await one(orders.database, "SELECT * FROM outbox WHERE type = 'order.confirmed'")
    event = envelope(OrderConfirmed.model_validate(told.payload), aggregate_id=row.id, version=told.aggregate_version)
    await deliver(
        orders.redis, orders.database, [(OrderConfirmed, partial(on_order, orders.cache))], event, stream=STREAM
    )

    async def is_confirmed() -> bool:
        return bool((await orders.client.get(path)).json()["status"] == "confirmed")

    await eventually(is_confirmed, seconds=2)


async def test_the_worker_hears_of_orders_that_have_moved_by_their_own_events(orders: Orders) -> None:
    heard: dict[str, Any] = {}
    resources = SimpleNamespace(
        database=orders.database,
        redis=orders.redis,
        breakers=BreakerRegistry(),
        quota=Quota,
        job_runner=lambda *_: None,
        scheduler=lambda *_: None,
        relay=lambda: None,
        consumer=lambda streams, handlers: heard.update(streams=streams, types=handlers.keys()),
    )
    async with worker._open_parts(Live(orders.settings), resources):
        pass
    assert set(heard["streams"]) == {PAYMENTS_STREAM, STREAM}
    assert heard["types"] >= {OrderConfirmed, OrderCancelled}


async def test_a_cached_order_is_not_seen_stale_after_payments_answer(orders: Orders, server: FakeServer) -> None:
    placed = await orders.placed()
    path = f"/v1/orders/{placed['id']}"
    assert (await orders.client.get(path)).json()["status"] == "pending"
    answer_with(server, await orders.row(placed["id"]), "captured", version=1)
    async with requesting(orders) as request:
        assert await request() is None

    async def is_confirmed() -> bool:
        return bool((await orders.client.get(path)).json()["status"] == "confirmed")

    await eventually(is_confirmed, seconds=2)


# The job that asks for the payment

type Request = Callable[[], Awaitable[Exception | None]]


@asynccontextmanager
async def requesting(orders: Orders, url: str | None = None) -> AsyncIterator[Request]:
    """Yields how to make one attempt at the job `request_payment`."""
    settings = dependency(url) if url else orders.settings.payments
    async with AsyncExitStack() as stack:
        http = http_client("payments", settings)
        stack.push_async_callback(http.close)
        handler = partial(jobs.request_payment, orders.database, orders.cache, PaymentsClient(http))
        yield partial(attempt, orders.database, RequestPayment, handler)


def answer_with(server: FakeServer, row: Any, status: str, *, version: int, reason: str | None = None) -> None:
    payment = {"id": str(row.payment_id), "order_id": str(row.id), "status": status, "version": version}
    server.answers(200, payment | {"amount": row.amount, "currency": row.currency, "reason": reason})


async def test_the_payment_is_asked_for_with_what_the_order_says(orders: Orders, server: FakeServer) -> None:
    row = await orders.row((await orders.placed())["id"])
    answer_with(server, row, "created", version=0)
    async with requesting(orders) as request:
        assert await request() is None
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/v1/payments")
    assert asked.json == {
        "payment_id": str(row.payment_id),
        "order_id": str(row.id),
        "amount": row.amount,
        "currency": "EUR",
        "payment_method": "pm_card_ok",
    }
    assert await job_statuses(orders.database, "request_payment") == []
    assert (await orders.row(str(row.id))).status == "pending"


@pytest.mark.parametrize("status", ["confirmed", "cancelling", "cancelled"])
async def test_an_order_that_is_not_pending_asks_for_nothing(orders: Orders, server: FakeServer, status: str) -> None:
    await orders.placed()
    await execute(orders.database, "UPDATE orders SET status = :status", status=status)
    async with requesting(orders) as request:
        assert await request() is None
    assert server.asked == []
    assert await job_statuses(orders.database, "request_payment") == []


@pytest.mark.parametrize(("status", "version", "expected"), [("captured", 1, "confirmed"), ("failed", 1, "cancelled")])
async def test_a_final_answer_is_applied_with_the_jobs_end(
    orders: Orders, server: FakeServer, status: str, version: int, expected: str
) -> None:
    row = await orders.row((await orders.placed())["id"])
    answer_with(server, row, status, version=version, reason="card_declined")
    async with requesting(orders) as request:
        assert await request() is None
    assert (await orders.row(str(row.id))).status == expected
    # The event that tells the same comes later and is no news.
    await orders.deliver(news_of(row, status, version))
    assert await events(orders.database, row.id) == [(1, "order.placed"), (2, f"order.{expected}")]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (409, DependencyRejected),
        (401, DependencyRejected),
        (404, DependencyRejected),
        (408, DependencyRejected),
        (429, DependencyUnavailable),
        (500, DependencyFailed),
        (503, DependencyFailed),
        (302, DependencyFailed),
    ],
)
async def test_an_answer_that_settles_nothing_is_one_call_and_the_jobs_to_repeat(
    orders: Orders, server: FakeServer, status: int, error: type[DependencyError]
) -> None:
    row = await orders.row((await orders.placed())["id"])
    server.answers(status, {}, headers={"Retry-After": "7"})
    async with requesting(orders) as request:
        raised = await request()
        assert type(raised) is error
        assert len(server.asked) == 1
        assert await job_statuses(orders.database, "request_payment") == ["ready"]
    async with requesting(orders) as request:  # with a new client, which a refusal has not paused
        answer_with(server, row, "captured", version=1)
        assert await request() is None
    first, second = server.asked
    assert first.json == second.json
    assert (await orders.row(str(row.id))).status == "confirmed"


async def test_payments_time_to_wait_reaches_the_job_runner(orders: Orders, server: FakeServer) -> None:
    await orders.placed()
    server.answers(429, {}, headers={"Retry-After": "7"})
    async with requesting(orders) as request:
        raised = await request()
    assert isinstance(raised, DependencyUnavailable)
    assert raised.retry_after == 7


async def test_a_payload_that_payments_does_not_understand_is_a_dead_letter(orders: Orders, server: FakeServer) -> None:
    row = await orders.row((await orders.placed())["id"])
    server.answers(422, {})
    async with requesting(orders) as request:
        assert isinstance(await request(), PermanentJobError)
    assert await job_statuses(orders.database, "request_payment") == ["dead"]
    assert (await orders.row(str(row.id))).status == "pending"


async def test_no_answer_and_an_unreadable_one_are_the_jobs_to_repeat(orders: Orders, server: FakeServer) -> None:
    row = await orders.row((await orders.placed())["id"])
    async with requesting(orders) as request:
        server.hangs()
        assert isinstance(await request(), DependencyTimeout)
        server.resets()
        assert isinstance(await request(), DependencyFailed)
        server.answers(200, {"status": "on the moon"})
        assert isinstance(await request(), DependencyFailed)
    async with requesting(orders, f"http://127.0.0.1:{free_port()}") as request:
        assert isinstance(await request(), DependencyUnavailable)
    assert await job_statuses(orders.database, "request_payment") == ["ready"]
    assert (await orders.row(str(row.id))).status == "pending"


async def test_a_worker_that_lost_its_lease_applies_nothing(orders: Orders, server: FakeServer) -> None:
    row = await orders.row((await orders.placed())["id"])
    answer_with(server, row, "captured", version=1)
    async with requesting(orders) as request:
        taken_over = execute(orders.database, "UPDATE job SET attempt = attempt + 1")

        async def answer_late(request: Any) -> Any:
            await taken_over
            answer_with(server, row, "captured", version=1)
            assert server.answer is not None
            return await server.answer(request)

        server.answer = answer_late
        assert isinstance(await request(), LeaseLost)
    assert (await orders.row(str(row.id))).status == "pending"
    assert await events(orders.database, row.id) == [(1, "order.placed")]


async def test_an_order_is_settled_while_payments_answers_and_stays_settled(orders: Orders, server: FakeServer) -> None:
    row = await orders.row((await orders.placed())["id"])

    async def answer_late(request: Any) -> Any:
        await orders.apply(row.payment_id, "captured", 1)
        answer_with(server, row, "submitted", version=0)
        assert server.answer is not None
        return await server.answer(request)

    server.answer = answer_late
    async with requesting(orders) as request:
        assert await request() is None
    assert (await orders.row(str(row.id))).status == "confirmed"


# Cancelling


async def test_a_cancelled_order_is_cancelling_until_its_money_is_settled(orders: Orders, server: FakeServer) -> None:
    placed = await orders.placed()
    path = f"/v1/orders/{placed['id']}"
    await execute(orders.database, "DELETE FROM job")
    first, again = await orders.client.post(f"{path}/cancel"), await orders.client.post(f"{path}/cancel")
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["status"] == again.json()["status"] == "cancelling"
    assert await job_statuses(orders.database, "settle_payment") == ["ready"]
    row = await orders.row(placed["id"])
    answer_with(server, row, "canceled", version=1)
    http = http_client("payments", orders.settings.payments)
    handler = partial(jobs.settle_payment, orders.database, orders.cache, PaymentsClient(http))
    assert await attempt(orders.database, SettlePayment, handler) is None
    await http.close()
    assert server.asked[0].path == f"/v1/payments/{row.payment_id}/refund"
    assert await events(orders.database, row.id) == [(1, "order.placed"), (2, "order.cancelled")]
    assert (await orders.client.post(f"{path}/cancel")).status_code == 200


async def test_an_order_cancelled_while_its_money_arrives_is_never_both(orders: Orders) -> None:
    for _ in range(5):
        row = await orders.row((await orders.placed())["id"])
        cancelled, _ = await asyncio.gather(
            orders.client.post(f"/v1/orders/{row.id}/cancel"), orders.apply(row.payment_id, "captured", 1)
        )
        assert cancelled.status_code == 202
        row = await orders.row(str(row.id))
        assert (row.status, row.paid_amount) == ("cancelling", row.amount)
        await orders.apply(row.payment_id, "refunded", 2)
        versions = [version for version, _ in await events(orders.database, row.id)]
        assert versions == list(range(1, len(versions) + 1))
        assert (await orders.row(str(row.id))).status == "cancelled"


async def test_somebody_elses_order_cannot_be_cancelled(orders: Orders) -> None:
    placed = await orders.placed()
    async with orders.client_of(OTHER_SHOP) as other:
        assert (await other.post(f"/v1/orders/{placed['id']}/cancel")).status_code == 404
        assert (await other.post(f"/v1/orders/{uuid4()}/cancel")).status_code == 404
    assert (await orders.row(placed["id"])).status == "pending"
