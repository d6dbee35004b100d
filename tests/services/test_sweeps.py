"""Sweeps: whatever is open and has no job gets one, from its state alone: no lost job stops an order for ever."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Protocol
from uuid import UUID

import orders.use_cases
import orders.worker
import payments.use_cases
import payments.worker
import pytest
import test_orders
import test_payments
from chassis.app.worker import Stages, WorkerResources
from chassis.app.worker.stages import Part
from chassis.circuit_breaker import BreakerRegistry
from chassis.config import Live
from chassis.jobs import JobPayload
from chassis.jobs.schedules import Schedule
from chassis.jobs.statements import STATEMENTS
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from harness import execute, one, rows
from payments.use_cases import ChargeReport
from redis.asyncio import Redis
from test_orders import Orders
from test_payments import Payments

shop = test_orders.orders
bank = test_payments.payments

STALE_AFTER = 60.0
PAUSE_OVER = "UPDATE job SET run_at = run_at - interval '11 minutes' WHERE status = 'dead'"

# What waits for another attempt: claimed once, so that its unique key is given up.
type State = str
LIVE: list[State] = ["waiting", "running", "backing off"]


async def stale_order(shop: Orders, status: str) -> UUID:
    order_id = UUID((await shop.placed())["id"])
    await execute(shop.database, "DELETE FROM job")
    await execute(
        shop.database,
        "UPDATE orders SET status = :status, updated_at = now() - interval '1 hour' WHERE id = :id",
        status=status,
        id=order_id,
    )
    return order_id


async def stale_payment(bank: Payments, status: str) -> UUID:
    payment_id = await bank.asked()
    await execute(bank.database, "DELETE FROM job")
    if status == "submitting":
        await bank.begin(payment_id)
    await execute(
        bank.database,
        "UPDATE payment SET status = :status, updated_at = now() - interval '1 hour' WHERE id = :id",
        status=status,
        id=payment_id,
    )
    return payment_id


async def stale_refund(bank: Payments, status: str = "requested", *, age: str = "1 hour") -> UUID:
    payment_id = await bank.captured()
    await bank.void(payment_id)
    await execute(bank.database, "DELETE FROM job")
    refund = await one(bank.database, "SELECT id FROM refund WHERE payment_id = :id", id=payment_id)
    await execute(
        bank.database,
        "UPDATE refund SET status = :status, updated_at = now() - interval '1 hour',"
        " created_at = now() - CAST(CAST(:age AS text) AS interval) WHERE id = :id",
        status=status,
        age=age,
        id=refund.id,
    )
    refund_id: UUID = refund.id
    return refund_id


async def sweep(service: Orders | Payments, *, batch: int = 100) -> None:
    run = orders.use_cases.sweep if isinstance(service, Orders) else payments.use_cases.sweep
    async with service.database.transaction() as session:
        await run(session, stale_after=STALE_AFTER, batch=batch)


async def jobs_about(database: Database) -> list[tuple[str, str]]:
    """Name and subject of the jobs that are not dead."""
    found = await rows(database, "SELECT name, payload FROM job WHERE status <> 'dead' ORDER BY id")
    return [(row.name, next(iter(row.payload.values()))) for row in found]


async def bring(database: Database, state: State) -> None:
    """Every job to a state, by the statements of the job runner."""
    if state == "waiting":
        return
    nothing: list[int] = []
    values = {"queue": "default", "worker": "test", "lease": 60.0, "count": 10}
    values |= {"suspects": False, "alone": False, "lookback": None}
    async with database.transaction() as session:
        claimed: list[Any] = list(
            (await session.execute(STATEMENTS["turn"], values | {"ids": nothing, "attempts": nothing})).all()
        )
        assert claimed
        ending = {"backing off": "retry", "dead": "bury"}.get(state)
        for job in claimed if ending else ():
            failed = {"id": job.id, "attempt": 1, "delay": 50.0, "granted": 0, "error": "x"}
            await session.execute(STATEMENTS[ending or ""], failed)


# The workers


class Wired(WorkerResources):
    """What a worker is put together of: the jobs it can run, and its schedules."""

    jobs: ClassVar[set[type[JobPayload]]]
    schedules: ClassVar[list[Schedule]]

    def job_runner(self, handlers: Mapping[type[JobPayload], Any], **options: Any) -> Part:
        type(self).jobs = set(handlers)
        return super().job_runner(handlers, **options)

    def scheduler(self, schedules: Sequence[Schedule]) -> Part:
        type(self).schedules = list(schedules)
        return super().scheduler(schedules)


class Wirable(Protocol):
    """A service under test, as the root of its worker needs it."""

    @property
    def settings(self) -> Any: ...
    @property
    def database(self) -> Database: ...
    @property
    def redis(self) -> Redis: ...


async def wired(
    service: Wirable, open_parts: Callable[..., AbstractAsyncContextManager[Stages]]
) -> tuple[set[str], dict[str, Schedule]]:
    """The names of the jobs that the service's worker runs, and its schedules. `open_parts` is its composition root."""
    resources = Wired(
        settings=service.settings,
        passwords=lambda: service.settings.database.passwords,
        database=service.database,
        redis=service.redis,
        streams=service.redis,
        wakeups=Wakeups(service.settings.database, application_name="test"),
        checks={},
        breakers=BreakerRegistry(),
        current=lambda: service.settings,
    )
    async with open_parts(Live(service.settings), resources):
        return {job.options.name for job in Wired.jobs}, {schedule.name: schedule for schedule in Wired.schedules}


async def test_the_worker_of_payments_sweeps_and_runs_each_job_that_a_sweep_gives(bank: Payments) -> None:
    await stale_payment(bank, "created")
    jobs, schedules = await wired(bank, payments.worker._open_parts)
    assert jobs == {"charge_payment", "reconcile_charge", "make_refund", "reconcile_refund"}
    assert {name: schedule.every for name, schedule in schedules.items()} == {"sweep": bank.settings.sweeps.every}
    async with bank.database.transaction() as session:
        await schedules["sweep"].run(session)
    assert [name for name, _ in await jobs_about(bank.database)] == ["charge_payment"]


async def test_the_worker_of_orders_expires_sweeps_and_runs_each_job_that_a_sweep_gives(shop: Orders) -> None:
    order_id = await stale_order(shop, "pending")
    await execute(shop.database, "UPDATE orders SET created_at = now() - interval '1 day'")
    jobs, schedules = await wired(shop, orders.worker._open_parts)
    assert jobs == {"request_payment", "settle_payment"}
    every = shop.settings.sweeps.every
    assert {name: schedule.every for name, schedule in schedules.items()} == {
        "expire_orders": every,
        "sweep": every,
        "prune_idempotency_records": 60,
    }
    for name in ("expire_orders", "sweep"):
        async with shop.database.transaction() as session:
            await schedules[name].run(session)
        # Expired just now, it has not yet waited long enough to be swept.
        await execute(shop.database, "UPDATE orders SET updated_at = now() - interval '1 day'")
        assert await jobs_about(shop.database) == [("settle_payment", str(order_id))]
        await execute(shop.database, "DELETE FROM job")
    assert await answers_kept(shop.database, schedules["prune_idempotency_records"]) == ["today"]


async def answers_kept(database: Database, pruning: Schedule) -> list[str]:
    """The keys that a run leaves of one used 25 hours ago and one used 23 hours ago."""
    await execute(database, "DELETE FROM idempotency_record")
    for key, hours in (("yesterday", 25), ("today", 23)):
        await execute(
            database,
            "INSERT INTO idempotency_record (client, key, fingerprint, status, body, created_at)"
            " VALUES ('acme', :key, '', 201, '', now() - make_interval(hours => :hours))",
            key=key,
            hours=hours,
        )
    async with database.transaction() as session:
        await pruning.run(session)
    return [row.key for row in await rows(database, "SELECT key FROM idempotency_record")]


# Orders


async def test_an_open_order_without_a_job_gets_the_one_of_its_state(shop: Orders) -> None:
    pending, cancelling = await stale_order(shop, "pending"), await stale_order(shop, "cancelling")
    for status in ("confirmed", "cancelled"):
        await stale_order(shop, status)
    await sweep(shop)
    assert set(await jobs_about(shop.database)) == {
        ("request_payment", str(pending)),
        ("settle_payment", str(cancelling)),
    }


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("status", ["pending", "cancelling"])
async def test_an_order_with_a_live_job_gets_no_second_one(shop: Orders, status: str, state: State) -> None:
    await stale_order(shop, status)
    await sweep(shop)
    await bring(shop.database, state)
    # Payments is away for long: each sweep finds the order as stale as the one before.
    for _ in range(3):
        await sweep(shop)
    assert len(await jobs_about(shop.database)) == 1


@pytest.mark.parametrize("status", ["pending", "cancelling"])
async def test_an_order_whose_job_died_gets_a_new_one_after_a_pause(shop: Orders, status: str) -> None:
    order_id = await stale_order(shop, status)
    await sweep(shop)
    await bring(shop.database, "dead")
    await sweep(shop)
    assert await jobs_about(shop.database) == []
    await execute(shop.database, PAUSE_OVER)
    await sweep(shop)
    assert [subject for _, subject in await jobs_about(shop.database)] == [str(order_id)]


async def test_an_order_that_changed_just_now_is_left_alone(shop: Orders) -> None:
    await stale_order(shop, "pending")
    await execute(shop.database, "UPDATE orders SET updated_at = now() - interval '59 seconds'")
    await sweep(shop)
    assert await jobs_about(shop.database) == []


async def test_orders_that_nothing_moves_do_not_hide_the_others(shop: Orders) -> None:
    stuck = {str(await stale_order(shop, "cancelling")) for _ in range(3)}
    await execute(shop.database, "UPDATE orders SET updated_at = updated_at - interval '1 day'")
    hidden = str(await stale_order(shop, "cancelling"))
    swept: Counter[str] = Counter()
    for _ in range(100):  # to miss one of four a hundred times has a chance of 3e-13
        await sweep(shop, batch=1)
        swept.update(subject for _, subject in await jobs_about(shop.database))
        await execute(shop.database, "DELETE FROM job")
    assert swept.keys() == stuck | {hidden}
    assert swept.total() == 100


# Payments


async def test_open_payments_and_refunds_get_the_job_of_their_state(bank: Payments) -> None:
    expected = {
        ("charge_payment", str(await stale_payment(bank, "created"))),
        ("charge_payment", str(await stale_payment(bank, "submitting"))),
        ("reconcile_charge", str(await stale_payment(bank, "submitted"))),
        ("make_refund", str(await stale_refund(bank, "requested"))),
        ("reconcile_refund", str(await stale_refund(bank, "submitted"))),
    }
    for status in ("captured", "failed", "canceled", "refunded"):
        await stale_payment(bank, status)
    for status in ("succeeded", "failed"):
        await stale_refund(bank, status)
    await sweep(bank)
    assert set(await jobs_about(bank.database)) == expected
    await sweep(bank)
    assert len(await jobs_about(bank.database)) == len(expected)


async def test_what_may_no_longer_be_posted_is_asked_for_instead(bank: Payments) -> None:
    payment_id = await stale_payment(bank, "submitting")
    await execute(bank.database, "UPDATE charge_attempt SET created_at = now() - interval '20 hours 1 minute'")
    refund_id = await stale_refund(bank, "requested", age="20 hours 1 minute")
    await sweep(bank)
    assert set(await jobs_about(bank.database)) == {
        ("reconcile_charge", str(payment_id)),
        ("reconcile_refund", str(refund_id)),
    }


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize(
    "make",
    [
        lambda bank: stale_payment(bank, "created"),
        lambda bank: stale_payment(bank, "submitting"),
        lambda bank: stale_payment(bank, "submitted"),
        lambda bank: stale_refund(bank, "requested"),
        lambda bank: stale_refund(bank, "submitted"),
    ],
    ids=["created", "submitting", "submitted", "refund requested", "refund submitted"],
)
async def test_what_has_a_live_job_gets_no_second_one(
    bank: Payments, make: Callable[[Payments], Any], state: State
) -> None:
    await make(bank)
    await sweep(bank)
    await bring(bank.database, state)
    for _ in range(3):
        await sweep(bank)
    assert len(await jobs_about(bank.database)) == 1


async def test_payments_and_refunds_whose_job_died_get_a_new_one_after_a_pause(bank: Payments) -> None:
    subjects = {str(await stale_payment(bank, "submitting")), str(await stale_refund(bank))}
    await sweep(bank)
    await bring(bank.database, "dead")
    await sweep(bank)
    assert await jobs_about(bank.database) == []
    await execute(bank.database, PAUSE_OVER)
    await sweep(bank)
    assert {subject for _, subject in await jobs_about(bank.database)} == subjects


async def test_what_changed_just_now_is_left_alone(bank: Payments) -> None:
    await stale_payment(bank, "created")
    await stale_refund(bank)
    for table in ("payment", "refund"):
        await execute(bank.database, f"UPDATE {table} SET updated_at = now() - interval '59 seconds'")
    await sweep(bank)
    assert await jobs_about(bank.database) == []


async def test_payments_that_nothing_moves_do_not_hide_the_others(bank: Payments) -> None:
    ids = {str(await stale_payment(bank, "submitted")) for _ in range(3)}
    swept: set[str] = set()
    for _ in range(100):
        await sweep(bank, batch=1)
        swept |= {subject for _, subject in await jobs_about(bank.database)}
        await execute(bank.database, "DELETE FROM job")
        # The provider says `pending` each time: no state changes, and the payment stays as stale as it was.
        assert not await bank.report(ChargeReport(UUID(next(iter(ids))), "accepted", "ch_1"))
    assert swept == ids
