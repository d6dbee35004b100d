"""Cancelling: an order that is given up is `cancelling` until its money is settled, whatever its payment does."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import orders.api
import orjson
import payments.api
import payments.jobs
import payments.use_cases
import pytest
import test_orders
from aiohttp import web
from backends import FreshDatabase
from captured_logs import captured_logs
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.errors import (
    DependencyError,
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
    LeaseLost,
    PermanentJobError,
)
from chassis.pooling import Database, Session
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
    events,
    execute,
    http_client,
    job_statuses,
    one,
    own_service,
    rows,
    running,
)
from notifications.events import ORDER_EVENTS, on_order
from notifications.messages import ORDERS_STREAM
from orders import jobs, use_cases, worker
from orders.messages import RequestPayment, SettlePayment
from orders.models import OrderRef
from orders.payments_client import PaymentsClient
from orders.settings import OrdersSettings
from orders.use_cases import PaymentNews, PaymentStatus
from overlapping import Work, overlapping
from payments.messages import ChargePayment, MakeRefund
from payments.provider_client import ProviderClient
from payments.settings import PaymentsSettings
from pydantic import SecretStr
from redis.asyncio import Redis
from test_orders import Orders, answer_with, news_of, requesting
from waiting import eventually

service = test_orders.orders

PLACED = (1, "order.placed")
LIMIT = 900.0


async def placed(service: Orders, status: str = "pending") -> Any:
    """A new order's row, without jobs; `confirmed` has its money."""
    row = await service.row((await service.placed())["id"])
    await execute(service.database, "DELETE FROM job")
    if status in {"confirmed", "cancelled"}:
        await service.apply(row.payment_id, "captured" if status == "confirmed" else "failed", 1)
    elif status == "cancelling":
        assert (await cancel(service, row)).status_code == 202
    return await service.row(str(row.id))


async def cancel(service: Orders, row: Any) -> httpx.Response:
    return await service.client.post(f"/v1/orders/{row.id}/cancel")


def cancelling(row: Any) -> Work[bool]:
    async def work(session: Session) -> bool:
        return (await use_cases.cancel_order(session, row.id, client_id=SHOP))[1]

    return work


def told(row: Any, status: PaymentStatus, version: int, reason: str | None = None) -> Work[OrderRef | None]:
    return lambda session: use_cases.apply_payment(session, PaymentNews(row.payment_id, version, status, reason))


def expiring(after: float = LIMIT) -> Work[list[OrderRef]]:
    return lambda session: use_cases.expire_orders(session, after=after, batch=10)


async def expire(service: Orders, *, batch: int = 10) -> list[UUID]:
    async with service.database.transaction() as session:
        return [order.id for order in await use_cases.expire_orders(session, after=LIMIT, batch=batch)]


async def age(service: Orders) -> None:
    await execute(service.database, "UPDATE orders SET created_at = now() - interval '1 hour'")


@asynccontextmanager
async def settling(service: Orders) -> AsyncIterator[Callable[[], Awaitable[Exception | None]]]:
    """Yields how to make one attempt at the job `settle_payment`."""
    http = http_client("payments", service.settings.payments)
    try:
        handler = partial(jobs.settle_payment, service.database, service.cache, PaymentsClient(http))
        yield partial(attempt, service.database, SettlePayment, handler)
    finally:
        await http.close()


# The client's wish


@pytest.mark.parametrize("status", ["pending", "confirmed"])
async def test_cancelling_sets_an_open_or_paid_order_going_and_tells_nobody_yet(service: Orders, status: str) -> None:
    row = await placed(service, status)
    answer = await cancel(service, row)
    assert (answer.status_code, answer.json()["status"], answer.json()["reason"]) == (202, "cancelling", "requested")
    after = await service.row(str(row.id))
    assert (after.status, after.version, after.paid_amount) == ("cancelling", row.version, row.paid_amount)
    assert (row.cancelling_at, after.cancelling_at) == (None, after.updated_at)
    job = await one(service.database, "SELECT * FROM job")
    assert (job.name, job.payload) == ("settle_payment", {"order_id": str(row.id)})
    assert len(await events(service.database, row.id)) == row.version


@pytest.mark.parametrize("status", ["cancelling", "cancelled"])
async def test_cancelling_what_is_cancelled_answers_200_and_writes_nothing(service: Orders, status: str) -> None:
    row = await placed(service, status)
    await execute(service.database, "DELETE FROM job")
    answer = await cancel(service, row)
    assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert await service.row(str(row.id)) == row
    assert await count(service.database, "job") == 0


async def test_an_order_of_somebody_else_or_of_nobody_is_not_found_alike_and_not_cancelled(service: Orders) -> None:
    row = await placed(service)
    async with service.client_of(OTHER_SHOP) as other, service.client_of(None) as nobody:
        theirs = await other.post(f"/v1/orders/{row.id}/cancel")
        none = await other.post(f"/v1/orders/{uuid4()}/cancel")
        assert (await nobody.post(f"/v1/orders/{row.id}/cancel")).status_code == 401
    assert (theirs.status_code, none.status_code) == (404, 404)
    assert theirs.json()["error"] == none.json()["error"]
    assert (await service.client.post("/v1/orders/not-a-uuid/cancel")).status_code == 422
    assert await service.row(str(row.id)) == row
    assert await count(service.database, "job") == 0


def test_cancelling_is_documented_with_each_of_its_answers() -> None:
    database = DatabaseSettings(name="none", user="none", password=SecretStr("none"))
    settings = OrdersSettings(database=database, payments=own_service("http://payments"))
    operation = orders.api.create_app(Live(settings)).openapi()["paths"]["/v1/orders/{order_id}/cancel"]["post"]
    assert {"200", "202", "401", "404", "422", "429", "503"} <= operation["responses"].keys()
    shown = [operation["responses"][status]["content"]["application/json"]["schema"] for status in ("200", "202")]
    assert shown == [{"$ref": "#/components/schemas/OrderView"}] * 2
    assert operation["description"]


# The order's end


@pytest.mark.parametrize(
    ("status", "news", "expected"),
    [
        ("pending", [("canceled", 1)], [PLACED, (2, "order.cancelled")]),
        ("pending", [("failed", 1)], [PLACED, (2, "order.cancelled")]),
        ("pending", [("captured", 1), ("refunded", 2)], [PLACED, (2, "order.cancelled")]),
        ("pending", [("refunded", 2), ("captured", 1)], [PLACED, (2, "order.cancelled")]),
        ("confirmed", [("refunded", 2)], [PLACED, (2, "order.confirmed"), (3, "order.cancelled")]),
        ("confirmed", [("captured", 1), ("refunded", 2)], [PLACED, (2, "order.confirmed"), (3, "order.cancelled")]),
    ],
)
async def test_a_cancelled_order_ends_when_its_net_is_zero_and_its_versions_have_no_gap(
    service: Orders, status: str, news: Sequence[tuple[PaymentStatus, int]], expected: list[tuple[int, str]]
) -> None:
    row = await placed(service, status)
    await cancel(service, row)
    for kind, version in news:
        assert (await service.row(str(row.id))).status == "cancelling" or (kind, version) == ("captured", 1)
        await service.apply(row.payment_id, kind, version, "card_declined")
    after = await service.row(str(row.id))
    assert (after.status, after.paid_amount, after.version) == ("cancelled", 0, len(expected))
    assert await events(service.database, row.id) == expected


async def test_the_reason_is_the_first_one_whatever_ended_the_payment(service: Orders) -> None:
    wished, late, declined = [await placed(service) for _ in range(3)]
    await cancel(service, wished)
    await execute(
        service.database, "UPDATE orders SET created_at = now() - interval '1 hour' WHERE id = :id", id=late.id
    )
    await expire(service)
    for row in (wished, late, declined):
        await service.apply(row.payment_id, "failed", 1, "card_declined")
    told_reasons = {
        row.aggregate_id: row.payload["reason"]
        for row in await rows(service.database, "SELECT * FROM outbox WHERE type = 'order.cancelled'")
    }
    assert told_reasons == {
        str(wished.id): "requested",
        str(late.id): "expired",
        str(declined.id): "card_declined",
    }
    shown = (await service.client.get(f"/v1/orders/{late.id}")).json()
    assert (shown["status"], shown["reason"]) == ("cancelled", "expired")


async def test_the_mail_of_a_cancelled_order_says_why(
    service: Orders,
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
) -> None:
    row = await placed(service)
    await cancel(service, row)
    await service.apply(row.payment_id, "canceled", 1, "voided")
    notifications = open_database(await empty_database("notifications"))
    handlers = [(kind, on_order) for kind in ORDER_EVENTS]
    await deliver(service.redis, notifications, handlers, *await written(service.database), stream=ORDERS_STREAM)
    mails = await rows(notifications, "SELECT subject, text FROM mail ORDER BY version")
    assert [mail.subject for mail in mails] == ["We have your order", "Your order was cancelled"]
    assert "you asked for it" in mails[1].text


async def test_captured_news_for_a_cancelled_order_is_an_alarm_and_brings_the_money_back(
    service: Orders, server: FakeServer
) -> None:
    row = await placed(service, "cancelled")
    with captured_logs() as logs:
        await service.apply(row.payment_id, "captured", 2)
    assert logs.one("payment_captured_after_cancellation")["order_id"] == str(row.id)
    after = await service.row(str(row.id))
    assert (after.status, after.paid_amount) == ("cancelled", row.amount)
    answer_with(server, row, "captured", version=2)
    async with settling(service) as settle:
        assert await settle() is None
    assert server.asked[0].path == f"/v1/payments/{row.payment_id}/refund"
    await service.apply(row.payment_id, "refunded", 3)
    assert (await service.row(str(row.id))).paid_amount == 0
    assert await events(service.database, row.id) == [PLACED, (2, "order.cancelled")]


# Two at once, in either order


async def test_a_cancel_that_comes_first_is_not_confirmed_over(service: Orders) -> None:
    row = await placed(service)
    is_new, _ = await overlapping(service.database, cancelling(row), told(row, "captured", 1))
    after = await service.row(str(row.id))
    assert (is_new, after.status, after.payment_version, after.paid_amount) == (True, "cancelling", 1, row.amount)
    assert await events(service.database, row.id) == [PLACED]


async def test_a_confirmation_that_comes_first_is_cancelled_after_it(service: Orders) -> None:
    row = await placed(service)
    _, is_new = await overlapping(service.database, told(row, "captured", 1), cancelling(row))
    assert (is_new, (await service.row(str(row.id))).status) == (True, "cancelling")
    await service.apply(row.payment_id, "refunded", 2)
    assert await events(service.database, row.id) == [PLACED, (2, "order.confirmed"), (3, "order.cancelled")]


async def test_an_order_cancelled_by_its_payment_meanwhile_is_not_set_going_again(service: Orders) -> None:
    row = await placed(service)
    _, is_new = await overlapping(service.database, told(row, "failed", 1, "card_declined"), cancelling(row))
    after = await service.row(str(row.id))
    assert (is_new, after.status, after.reason) == (False, "cancelled", "card_declined")
    assert await count(service.database, "job") == 0


async def test_two_cancels_at_once_are_one(service: Orders) -> None:
    row = await placed(service)
    assert await overlapping(service.database, cancelling(row), cancelling(row)) == (True, False)
    assert await job_statuses(service.database, "settle_payment") == ["ready"]


async def test_an_order_confirmed_first_does_not_expire(service: Orders) -> None:
    row = await placed(service)
    await age(service)
    _, expired = await overlapping(service.database, told(row, "captured", 1), expiring())
    assert (expired, (await service.row(str(row.id))).status) == ([], "confirmed")
    assert await count(service.database, "job") == 0


async def test_an_order_expired_first_is_not_confirmed(service: Orders) -> None:
    row = await placed(service)
    await age(service)
    expired, _ = await overlapping(service.database, expiring(), told(row, "captured", 1))
    after = await service.row(str(row.id))
    assert (expired, after.status, after.reason) == ([(row.id, SHOP)], "cancelling", "expired")
    assert await events(service.database, row.id) == [PLACED]


@pytest.mark.parametrize("is_wish_first", [True, False])
async def test_a_wish_and_the_expiry_at_once_settle_once_for_the_first_ones_reason(
    service: Orders, *, is_wish_first: bool
) -> None:
    row = await placed(service)
    await age(service)
    if is_wish_first:
        await overlapping(service.database, cancelling(row), expiring())
    else:
        await overlapping(service.database, expiring(), cancelling(row))
    after = await service.row(str(row.id))
    assert (after.status, after.reason) == ("cancelling", "requested" if is_wish_first else "expired")
    assert await job_statuses(service.database, "settle_payment") == ["ready"]


async def test_cancel_event_and_answer_at_once_end_the_same_whatever_their_order(
    service: Orders, server: FakeServer
) -> None:
    shuffled = random.Random(3)
    placed_rows = [await service.row((await service.placed())["id"]) for _ in range(6)]

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        (row,) = [row for row in placed_rows if str(row.id) == asked["order_id"]]
        return web.json_response({"id": str(row.payment_id), "status": "captured", "version": 1})

    server.answer = answer
    async with requesting(service) as request:
        for row in placed_rows:
            calls: list[Awaitable[object]] = [
                request(),
                cancel(service, row),
                cancel(service, row),
                service.apply(row.payment_id, "captured", 1),
                service.apply(row.payment_id, "captured", 1),
            ]
            shuffled.shuffle(calls)
            await asyncio.gather(*calls)
            after = await service.row(str(row.id))
            assert (after.status, after.paid_amount) == ("cancelling", row.amount)
            await execute(service.database, "DELETE FROM job WHERE name = 'settle_payment'")
            await asyncio.gather(*(service.apply(row.payment_id, "refunded", 2) for _ in range(3)))
            kinds = await events(service.database, row.id)
            assert kinds in (
                [PLACED, (2, "order.cancelled")],
                [PLACED, (2, "order.confirmed"), (3, "order.cancelled")],
            )


# Expiry


async def test_only_orders_pending_past_the_limit_expire_and_they_are_settled_like_any_other(service: Orders) -> None:
    old = [await placed(service, status) for status in ("pending", "confirmed", "cancelling", "cancelled")]
    await execute(service.database, "DELETE FROM job")
    await age(service)
    young = await placed(service)
    assert await expire(service) == [old[0].id]
    assert await expire(service) == []
    # Its payment may be on its way: it is not cancelled before payments says so.
    assert [(await service.row(str(row.id))).status for row in (*old, young)] == [
        "cancelling",
        "confirmed",
        "cancelling",
        "cancelled",
        "pending",
    ]
    assert await events(service.database, old[0].id) == [PLACED]
    job = await one(service.database, "SELECT * FROM job")
    assert (job.name, job.payload) == ("settle_payment", {"order_id": str(old[0].id)})


async def test_expiry_takes_a_batch_at_a_time_the_oldest_first(service: Orders) -> None:
    old = [await placed(service) for _ in range(3)]
    await age(service)
    await execute(
        service.database, "UPDATE orders SET created_at = created_at - interval '1 hour' WHERE id = :id", id=old[2].id
    )
    assert await expire(service, batch=1) == [old[2].id]
    assert sorted(await expire(service, batch=5)) == sorted(row.id for row in old[:2])


# The job that settles


async def test_settling_asks_payments_for_a_net_of_zero_with_what_the_order_says(
    service: Orders, server: FakeServer
) -> None:
    row = await placed(service, "cancelling")
    answer_with(server, row, "canceled", version=1)
    async with settling(service) as settle:
        assert await settle() is None
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", f"/v1/payments/{row.payment_id}/refund")
    assert asked.json == {"order_id": str(row.id), "amount": row.amount, "currency": row.currency}
    assert await count(service.database, "job") == 0
    assert await events(service.database, row.id) == [PLACED, (2, "order.cancelled")]


@pytest.mark.parametrize("status", ["pending", "confirmed"])
async def test_an_order_that_nobody_cancels_is_not_settled(service: Orders, server: FakeServer, status: str) -> None:
    row = await placed(service, "cancelling")
    await execute(service.database, "UPDATE orders SET status = :status", status=status)
    async with settling(service) as settle:
        assert await settle() is None
    assert server.asked == []
    assert (await service.row(str(row.id))).status == status


@pytest.mark.parametrize(("status", "version"), [("created", 0), ("submitting", 0), ("submitted", 0), ("captured", 1)])
async def test_an_answer_that_settles_nothing_yet_ends_the_job_and_the_event_settles(
    service: Orders, server: FakeServer, status: str, version: int
) -> None:
    row = await placed(service, "cancelling")
    answer_with(server, row, status, version=version)
    async with settling(service) as settle:
        assert await settle() is None
    assert (await service.row(str(row.id))).status == "cancelling"
    assert await count(service.database, "job") == 0
    await service.deliver(news_of(row, "refunded", 2))
    assert (await service.row(str(row.id))).status == "cancelled"


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (lambda server: server.answers(404, {}), DependencyRejected),
        (lambda server: server.answers(409, {}), DependencyRejected),
        (lambda server: server.answers(429, {}), DependencyUnavailable),
        (lambda server: server.answers(500, {}), DependencyFailed),
        (lambda server: server.answers(503, {}), DependencyFailed),
        (FakeServer.hangs, DependencyTimeout),
        (FakeServer.resets, DependencyFailed),
        (lambda server: server.answers(202, {"status": "on the moon"}), DependencyFailed),
    ],
    ids=["404", "409", "429", "500", "503", "time-out", "reset", "unreadable"],
)
async def test_what_settles_nothing_leaves_the_order_cancelling_and_is_the_jobs_to_repeat(
    service: Orders, server: FakeServer, trouble: Callable[[FakeServer], None], error: type[DependencyError]
) -> None:
    row = await placed(service, "cancelling")
    trouble(server)
    async with settling(service) as settle:
        assert type(await settle()) is error
        assert (await service.row(str(row.id))).status == "cancelling"
        assert await job_statuses(service.database, "settle_payment") == ["ready"]
        answer_with(server, row, "failed", version=1)
        assert await settle() is None
    assert (await service.row(str(row.id))).status == "cancelled"


async def test_what_payments_does_not_understand_is_a_dead_letter(service: Orders, server: FakeServer) -> None:
    row = await placed(service, "cancelling")
    server.answers(422, {})
    async with settling(service) as settle:
        assert isinstance(await settle(), PermanentJobError)
    assert await job_statuses(service.database, "settle_payment") == ["dead"]
    assert (await service.row(str(row.id))).status == "cancelling"


async def test_a_worker_that_lost_its_lease_settles_nothing(service: Orders, server: FakeServer) -> None:
    row = await placed(service, "cancelling")

    async def answer_late(request: web.Request) -> web.StreamResponse:
        await execute(service.database, "UPDATE job SET attempt = attempt + 1")
        answer_with(server, row, "canceled", version=1)
        assert server.answer is not None
        return await server.answer(request)

    server.answer = answer_late
    async with settling(service) as settle:
        assert isinstance(await settle(), LeaseLost)
    assert (await service.row(str(row.id))).status == "cancelling"


async def test_an_order_cancelled_while_its_payment_is_asked_for_stays_cancelling(
    service: Orders, server: FakeServer
) -> None:
    row = await service.row((await service.placed())["id"])

    async def answer_late(request: web.Request) -> web.StreamResponse:
        await cancel(service, row)
        answer_with(server, row, "created", version=0)
        assert server.answer is not None
        return await server.answer(request)

    server.answer = answer_late
    async with requesting(service) as request:
        assert await request() is None
    assert (await service.row(str(row.id))).status == "cancelling"
    assert await job_statuses(service.database, "settle_payment") == ["ready"]


# What a client sees


async def test_whoever_cancels_never_reads_the_old_state_afterwards(service: Orders) -> None:
    for _ in range(20):
        row = await placed(service)
        assert (await service.client.get(f"/v1/orders/{row.id}")).json()["status"] == "pending"
        await cancel(service, row)
        assert (await service.client.get(f"/v1/orders/{row.id}")).json()["status"] == "cancelling"


async def test_an_order_is_answered_304_until_it_changes(service: Orders) -> None:
    row = await placed(service)
    path = f"/v1/orders/{row.id}"
    tag = (await service.client.get(path)).headers["etag"]
    assert (await service.client.get(path, headers={"If-None-Match": tag})).status_code == 304
    await cancel(service, row)
    changed = await service.client.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["status"]) == (200, "cancelling")
    assert changed.headers["etag"] != tag


async def test_a_cached_order_is_not_seen_stale_after_its_expiry_or_its_refund(service: Orders) -> None:
    row = await placed(service)
    path = f"/v1/orders/{row.id}"
    assert (await service.client.get(path)).json()["status"] == "pending"
    await age(service)
    expire_schedule = next(s for s in worker._schedules(service.settings, service.cache) if s.name == "expire_orders")
    async with service.database.transaction() as session:
        await expire_schedule.run(session)
    await eventually(partial(shows, service, path, "cancelling"), seconds=2)
    await service.deliver(news_of(row, "refunded", 2))
    await eventually(partial(shows, service, path, "cancelled"), seconds=2)


async def shows(service: Orders, path: str, status: str) -> bool:
    return bool((await service.client.get(path)).json()["status"] == status)


# Orders and payments together


@dataclass(frozen=True, slots=True)
class Together:
    """Orders and payments with a database each; what one sends the other gets, when the test says so."""

    orders: Orders
    payments: Database
    provider: ProviderClient
    client: PaymentsClient

    async def request(self) -> Exception | None:
        handler = partial(jobs.request_payment, self.orders.database, self.orders.cache, self.client)
        return await attempt(self.orders.database, RequestPayment, handler)

    async def settle(self) -> Exception | None:
        handler = partial(jobs.settle_payment, self.orders.database, self.orders.cache, self.client)
        return await attempt(self.orders.database, SettlePayment, handler)

    async def charge(self) -> Exception | None:
        handler = partial(payments.jobs.charge_payment, self.payments, self.provider)
        return await attempt(self.payments, ChargePayment, handler)

    async def refund(self) -> Exception | None:
        handler = partial(payments.jobs.make_refund, self.payments, self.provider)
        return await attempt(self.payments, MakeRefund, handler)

    async def tell(self) -> None:
        """Everything that payments has published so far reaches orders, again if need be."""
        await self.orders.deliver(*await written(self.payments))


async def written(database: Database) -> list[str]:
    """All events of an outbox, as the relay publishes them."""
    query = (
        "SELECT event_id, type, schema, aggregate_id, aggregate_version, occurred_at, traceparent, payload"
        " FROM outbox ORDER BY seq"
    )
    return [orjson.dumps(dict(row._mapping), default=str).decode() for row in await rows(database, query)]


@pytest.fixture
async def together(
    service: Orders,
    server: FakeServer,
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
    patient_redis: RedisSettings,
    redis: Redis,
) -> AsyncIterator[Together]:
    settings = PaymentsSettings(
        database=await empty_database("payments"),
        redis=patient_redis,
        auth=AUTH,
        rate_limit=UNLIMITED,
        provider=dependency(server.url),
    )
    patient = service.settings.payments.model_copy(update={"attempt_timeout": 2.0})
    http = [http_client(name, patient) for name in ("payments", "provider")]
    async with running(payments.api.create_app(Live(settings))) as client_of, client_of() as client:

        async def answer(request: web.Request) -> web.StreamResponse:
            """Payments' real API, and a provider that does at once what it is asked for."""
            if request.path.startswith("/v1/"):
                answered = await client.request(request.method, request.path, json=await request.json())
                return web.json_response(answered.json(), status=answered.status_code)
            status = "captured" if request.path == "/charges" else "succeeded"
            return web.json_response({"id": "tr_1", "status": status}, status=202)

        server.answer = answer
        yield Together(service, open_database(settings.database), ProviderClient(http[1]), PaymentsClient(http[0]))
    for dependency_client in http:
        await dependency_client.close()


async def test_an_order_cancelled_before_its_payment_was_asked_for_is_never_charged(
    together: Together, server: FakeServer
) -> None:
    row = await together.orders.row((await together.orders.placed())["id"])
    job = await one(together.orders.database, "SELECT id FROM job")
    await cancel(together.orders, row)
    await execute(
        together.orders.database, "UPDATE job SET run_at = now() + interval '1 hour' WHERE id = :id", id=job.id
    )
    assert await together.settle() is None
    assert (await together.orders.row(str(row.id))).status == "cancelled"
    # The old request, sent while the order was pending, arrives only now.
    await together.client.request_payment(
        payment_id=row.payment_id,
        order_id=row.id,
        amount=row.amount,
        currency=row.currency,
        payment_method="pm_card_ok",
    )
    assert await count(together.payments, "job") == 0
    await together.tell()
    assert await events(together.orders.database, row.id) == [PLACED, (2, "order.cancelled")]
    assert [asked.path for asked in server.asked if asked.path == "/charges"] == []


async def test_a_paid_order_that_is_cancelled_is_refunded_once_and_told_so(
    together: Together, server: FakeServer
) -> None:
    row = await together.orders.row((await together.orders.placed())["id"])
    assert (await together.request(), await together.charge()) == (None, None)
    await together.tell()
    assert (await together.orders.row(str(row.id))).status == "confirmed"
    await cancel(together.orders, row)
    assert (await together.settle(), await together.refund()) == (None, None)
    assert (await together.orders.row(str(row.id))).status == "cancelling"
    await together.tell()
    after = await together.orders.row(str(row.id))
    assert (after.status, after.paid_amount, after.payment_version) == ("cancelled", 0, 2)
    assert await events(together.orders.database, row.id) == [PLACED, (2, "order.confirmed"), (3, "order.cancelled")]
    keys = [asked.headers["Idempotency-Key"] for asked in server.asked if "Idempotency-Key" in asked.headers]
    assert len(keys) == 2
    assert keys[0] == f"charge:{row.payment_id}"
    assert keys[1].startswith("refund:")
    assert str(row.payment_id) not in keys[1]


async def test_an_order_cancelled_while_its_charge_is_under_way_is_refunded_by_payments_itself(
    together: Together,
) -> None:
    row = await together.orders.row((await together.orders.placed())["id"])
    assert await together.request() is None
    async with together.payments.transaction() as session:
        await payments.use_cases.begin_attempt(session, row.payment_id)
    await cancel(together.orders, row)
    assert await together.settle() is None
    assert (await together.orders.row(str(row.id))).status == "cancelling"
    assert (await together.charge(), await together.refund()) == (None, None)
    await together.tell()
    assert await events(together.orders.database, row.id) == [PLACED, (2, "order.cancelled")]
    assert (await one(together.payments, "SELECT status FROM payment")).status == "refunded"
