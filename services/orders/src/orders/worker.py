"""The composition root of the worker process, which connects jobs, events and schedules with the resources that they
use.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.worker import Stages, WorkerResources, run_worker
from chassis.caching import Cache
from chassis.config import Live
from chassis.jobs.schedules import Schedule
from chassis.pooling import Session, after_commit
from chassis.retries import idempotency

from orders import caches, events, jobs, use_cases
from orders.messages import (
    PAYMENTS_STREAM,
    STREAM,
    OrderCancelled,
    OrderConfirmed,
    PaymentCanceled,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    RequestPayment,
    SettlePayment,
)
from orders.payments_client import PaymentsClient, open_payments
from orders.schemas import OrderView
from orders.settings import OrdersSettings


def run(live: Live[OrdersSettings]) -> None:
    run_worker(live, version=version("holdfast-orders"), open_parts=_open_parts)


@asynccontextmanager
async def _open_parts(live: Live[OrdersSettings], base: WorkerResources) -> AsyncIterator[Stages]:
    settings, database = live.current, base.database
    dependency = open_payments(
        settings, lambda: live.current.payments.token_secret, base.breakers, quota=base.quota("payments")
    )
    client = PaymentsClient(dependency)
    cache = caches.orders(base.redis, settings)
    job_runner = base.job_runner(
        {
            RequestPayment: partial(jobs.request_payment, database, cache, client),
            SettlePayment: partial(jobs.settle_payment, database, cache, client),
        }
    )
    on_payment, on_order = partial(events.on_payment, cache), partial(events.on_order, cache)
    consumer = base.consumer(
        [PAYMENTS_STREAM, STREAM],
        {
            PaymentCaptured: on_payment,
            PaymentFailed: on_payment,
            PaymentCanceled: on_payment,
            PaymentRefunded: on_payment,
            OrderConfirmed: on_order,
            OrderCancelled: on_order,
        },
    )
    scheduler = base.scheduler(_schedules(settings, cache))
    try:
        yield [[job_runner, consumer, scheduler], [base.relay()]]
    finally:
        await cache.close()
        await dependency.close()


def _schedules(settings: OrdersSettings, cache: Cache[OrderView]) -> list[Schedule]:
    """The schedules cancel orders that are pending for too long, enqueue jobs for open orders that have no job, and
    delete old answers to idempotency keys.
    """
    sweeps = settings.sweeps

    async def expire(session: Session) -> None:
        for order in await use_cases.expire_orders(session, after=settings.pending_limit, batch=sweeps.batch):
            after_commit(session, partial(cache.invalidate_soon, caches.order_key(order)))

    return [
        Schedule(name="expire_orders", every=sweeps.every, run=expire),
        Schedule(
            name="sweep",
            every=sweeps.every,
            run=partial(use_cases.sweep, stale_after=sweeps.stale_after, batch=sweeps.batch),
        ),
        Schedule(
            name="prune_idempotency_records",
            every=idempotency.PRUNE_EVERY,
            run=partial(idempotency.prune, retention=settings.idempotency.retention),
        ),
    ]
