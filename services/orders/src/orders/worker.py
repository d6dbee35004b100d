"""The composition root of the worker process: which jobs it runs, which events it consumes, and with what."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.worker import Stages, WorkerResources, run_worker_process
from chassis.auth.service_tokens import TokenSource
from chassis.caching import Cache
from chassis.calls.http_client import HttpDependency
from chassis.config import Live
from chassis.jobs.schedules import Schedule
from chassis.pooling import after_commit
from chassis.retries import idempotency
from sqlalchemy.ext.asyncio import AsyncSession

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
from orders.payments_client import PaymentsClient
from orders.schemas import OrderView
from orders.settings import OrdersSettings


def run(live: Live[OrdersSettings]) -> None:
    run_worker_process(live, version=version("holdfast-orders"), open_parts=partial(_open_parts, live))


@asynccontextmanager
async def _open_parts(live: Live[OrdersSettings], resources: WorkerResources) -> AsyncIterator[Stages]:
    settings = live.current
    tokens = TokenSource(
        issuer=settings.service_name, audience="payments", secret=lambda: live.current.payments.token_secret
    )
    dependency = HttpDependency("payments", settings.payments, authorization=tokens, breakers=resources.breakers)
    payments, database = PaymentsClient(dependency), resources.database
    cache = caches.orders(resources.redis, settings)
    on_payment, on_order = partial(events.on_payment, cache), partial(events.on_order, cache)
    try:
        yield [
            [
                resources.job_runner(
                    {
                        RequestPayment: partial(jobs.request_payment, database, cache, payments),
                        SettlePayment: partial(jobs.settle_payment, database, cache, payments),
                    }
                ),
                resources.consumer(
                    [PAYMENTS_STREAM, STREAM],
                    dict.fromkeys((PaymentCaptured, PaymentFailed, PaymentCanceled, PaymentRefunded), on_payment)
                    | dict.fromkeys((OrderConfirmed, OrderCancelled), on_order),
                ),
                resources.scheduler(_schedules(settings, cache)),
            ],
            [resources.relay()],
        ]
    finally:
        await cache.close()
        await dependency.close()


def _schedules(settings: OrdersSettings, cache: Cache[OrderView]) -> list[Schedule]:
    sweeps = settings.sweeps

    async def expire(session: AsyncSession) -> None:
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
