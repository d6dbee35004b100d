"""An order's payment: as payments reports it, and, marked as degraded, as the order knows it while payments is down."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args
from uuid import UUID, uuid4

import httpx
import pytest
from backends import FreshDatabase
from captured_logs import captured_logs
from chassis.circuit_breaker import BreakerRegistry
from chassis.config import Live
from chassis.config.settings import BreakerSettings, DatabaseSettings, RedisSettings
from chassis.pooling import Database
from harness import AUTH, OTHER_SHOP, UNLIMITED, FakeServer, one, own_service, running
from orders import use_cases
from orders.api import create_app
from orders.models import OrderStatus
from orders.payments_client import Payment
from orders.settings import OrdersFlags, OrdersSettings
from orders.use_cases import PaymentNews, PaymentStatus, last_known_status
from prometheus_client import REGISTRY


@dataclass(slots=True)
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Shop:
    """The orders service, its database, and a client. `payments` plays the payments service."""

    live: Live[OrdersSettings]
    database: Database
    payments: FakeServer
    client_of: Callable[..., httpx.AsyncClient]
    client: httpx.AsyncClient
    clock: Clock
    """The clock of the breakers."""

    async def place(self) -> str:
        body = {"lines": [{"product_id": "rope"}], "customer_email": "ada@example.com", "payment_method": "pm_card_ok"}
        placed = await self.client.post("/v1/orders", json=body, headers={"Idempotency-Key": uuid4().hex})
        assert placed.status_code == 201
        order_id: str = placed.json()["id"]
        return order_id

    async def payment_id(self, order_id: str) -> UUID:
        row = await one(self.database, "SELECT payment_id FROM orders WHERE id = :id", id=UUID(order_id))
        payment_id: UUID = row.payment_id
        return payment_id

    async def hear(self, order_id: str, status: PaymentStatus, *, version: int = 1, reason: str | None = None) -> None:
        """The order hears of its payment, as from an event."""
        news = PaymentNews(await self.payment_id(order_id), version, status, reason)
        async with self.database.transaction() as session:
            await use_cases.apply_payment(session, news)

    async def report(self, order_id: str, status: str, reason: str | None = None) -> None:
        """Payments reports this status from now on."""
        payment_id = str(await self.payment_id(order_id))
        self.payments.answers(200, {"id": payment_id, "status": status, "version": 1, "reason": reason})

    async def read(self, order_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/v1/orders/{order_id}/payment")
        assert answer.status_code == 200, answer.text
        seen: dict[str, Any] = answer.json()
        return seen

    def switch(self, share: float) -> None:
        """Switch the calls to payments off for a share of the orders, as a reload of the service's file does."""
        flags = OrdersFlags.model_validate({"stored_payment_status": {"share": share}})
        self.live.replace(self.live.current.model_copy(update={"flags": flags}))


@pytest.fixture
async def shop(
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
    patient_redis: RedisSettings,
    server: FakeServer,
) -> AsyncIterator[Shop]:
    breaker = BreakerSettings(minimum_calls=3, window_size=20, slow_call_duration=0.19)
    settings = OrdersSettings(
        database=await empty_database("orders"),
        redis=patient_redis,
        auth=AUTH,
        rate_limit=UNLIMITED,
        payments=own_service(server.url).model_copy(update={"breaker": breaker}),
    )
    live, clock = Live(settings), Clock()
    app = create_app(live)
    app.breakers = BreakerRegistry(clock=clock)
    async with running(app) as client_of, client_of() as client:
        yield Shop(live, open_database(settings.database), server, client_of, client, clock)


def degraded(cause: str) -> float:
    labels = {"dependency": "payments", "operation": "read_payment", "cause": cause}
    return REGISTRY.get_sample_value("degraded_answers_total", labels) or 0.0


def seen(answer: dict[str, Any]) -> tuple[str, str | None, bool]:
    return answer["status"], answer["detail"], answer["degraded"]


# While payments answers


STATUSES = get_args(Payment.model_fields["status"].annotation)


@pytest.mark.parametrize("status", STATUSES)
async def test_the_payment_is_shown_as_payments_reports_it(shop: Shop, status: str) -> None:
    order_id = await shop.place()
    await shop.report(order_id, status, reason="card declined" if status == "failed" else None)
    answer = await shop.read(order_id)
    paid = {"captured": "paid", "failed": "unpaid", "canceled": "unpaid", "refunded": "unpaid"}
    assert seen(answer) == (paid.get(status, "pending"), status, False)
    assert (answer["order_id"], answer["reason"]) == (order_id, "card declined" if status == "failed" else None)
    [asked] = shop.payments.asked
    assert (asked.method, asked.path) == ("GET", f"/v1/payments/{await shop.payment_id(order_id)}")


async def test_a_payment_that_payments_does_not_have_yet_is_pending_and_not_degraded(shop: Shop) -> None:
    order_id = await shop.place()
    shop.payments.answers(404, {"error": {}})
    assert seen(await shop.read(order_id)) == ("pending", None, False)


async def test_nobody_sees_the_payment_of_anothers_order_and_payments_is_not_asked(shop: Shop) -> None:
    order_id = await shop.place()
    async with shop.client_of(OTHER_SHOP) as other:
        answer = await other.get(f"/v1/orders/{order_id}/payment")
    assert answer.status_code == 404
    assert shop.payments.asked == []


# While payments does not


def fail(server: FakeServer) -> None:
    server.answers(503, {})


def be_full(server: FakeServer) -> None:
    server.answers(429, {}, headers={"Retry-After": "1"})


def be_of_another_release(server: FakeServer) -> None:
    server.answers(200, {"id": str(uuid4()), "status": "disputed", "version": 1})


FAILURES = [fail, FakeServer.resets, FakeServer.hangs, be_full, be_of_another_release]


@pytest.mark.parametrize("break_payments", FAILURES)
async def test_without_an_answer_the_last_known_status_is_served_and_marked(
    shop: Shop, break_payments: Callable[[FakeServer], None]
) -> None:
    order_id, before = await shop.place(), degraded("failure")
    await shop.hear(order_id, "captured")
    break_payments(shop.payments)
    with captured_logs() as logs:
        answer = await shop.read(order_id)
    row = await one(shop.database, "SELECT updated_at FROM orders WHERE id = :id", id=UUID(order_id))
    assert seen(answer) == ("paid", None, True)
    assert datetime.fromisoformat(answer["as_of"]) == row.updated_at
    assert degraded("failure") == before + 1
    line = logs.one("request_completed")
    assert (line["status"], line["degraded"], line["degraded_cause"]) == (200, "payments", "failure")


async def test_an_open_breaker_spares_payments_and_recovery_is_noticed(shop: Shop) -> None:
    order_id = await shop.place()
    fail(shop.payments)
    for _ in range(5):
        assert seen(await shop.read(order_id)) == ("pending", None, True)
    assert len(shop.payments.asked) == 3  # `minimum_calls`: the breaker is open, and answers are as before
    await shop.report(order_id, "captured")
    assert seen(await shop.read(order_id)) == ("pending", None, True)
    shop.clock.now += 60  # longer than the breaker stays open after its first failures
    assert seen(await shop.read(order_id)) == ("paid", "captured", False)


async def test_a_refused_token_is_a_mistake_of_ours_and_has_no_fallback(shop: Shop) -> None:
    order_id = await shop.place()
    shop.payments.answers(401, {})
    answer = await shop.client.get(f"/v1/orders/{order_id}/payment")
    assert answer.json()["error"]["code"] == "DEPENDENCY_REJECTED"


@pytest.mark.parametrize(
    ("order", "paid_amount", "status"),
    [
        (OrderStatus.PENDING, 0, "pending"),
        (OrderStatus.CONFIRMED, 1999, "paid"),
        (OrderStatus.CANCELLING, 0, "pending"),
        (OrderStatus.CANCELLING, 1999, "paid"),
        (OrderStatus.CANCELLED, 0, "unpaid"),
    ],
)
def test_the_last_known_status_follows_from_the_order(order: OrderStatus, paid_amount: int, status: str) -> None:
    assert last_known_status(order, paid_amount=paid_amount) == status


# Switched off by operators


async def test_the_flag_switches_the_calls_to_payments_off_while_the_process_runs(shop: Shop) -> None:
    """The feature's cost is measured in calls: 20 reads make 20 of them without the flag, and none with it."""
    order_id, before = await shop.place(), degraded("flag")
    await shop.hear(order_id, "captured")
    await shop.report(order_id, "captured")
    for share, calls, answer in [(0, 20, "captured"), (1, 0, None), (0, 20, "captured")]:
        shop.switch(share)
        shop.payments.asked.clear()
        with captured_logs() as logs:
            answers = [seen(await shop.read(order_id)) for _ in range(20)]
        assert answers == [("paid", answer, answer is None)] * 20
        assert len(shop.payments.asked) == calls
        lines = logs.of("request_completed")
        assert {line["flag_stored_payment_status"] for line in lines} == {bool(share)}
        assert {line.get("degraded_cause") for line in lines} == {"flag" if share else None}
    assert degraded("flag") == before + 20


async def test_half_a_share_switches_the_calls_off_for_about_half_of_the_orders(shop: Shop) -> None:
    order_ids = [await shop.place() for _ in range(40)]
    shop.payments.answers(404, {})
    shop.switch(0.5)
    first = [(await shop.read(order_id))["degraded"] for order_id in order_ids]
    assert 8 <= sum(first) <= 32  # the ids are random: outside of this range once in 25,000 runs
    assert [(await shop.read(order_id))["degraded"] for order_id in order_ids] == first
