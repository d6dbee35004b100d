"""The composition root of the worker process: which jobs it runs, which events it consumes, and with what."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.circuit_breaker import BreakerRegistry
from chassis.http_client import HttpDependency
from chassis.worker import Stages, WorkerResources, run_worker_process

from orders import caches, events, jobs
from orders.messages import (
    PAYMENTS_STREAM,
    PaymentCanceled,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    RequestPayment,
)
from orders.payments_client import PaymentsClient
from orders.settings import OrdersSettings


def run(settings: OrdersSettings) -> None:
    run_worker_process(settings, version=version("holdfast-orders"), open_parts=partial(_open_parts, settings))


@asynccontextmanager
async def _open_parts(settings: OrdersSettings, resources: WorkerResources) -> AsyncIterator[Stages]:
    payments = HttpDependency("payments", settings.payments, breakers=BreakerRegistry())
    cache = caches.orders(resources.redis, settings)
    on_payment = partial(events.on_payment, cache)
    try:
        yield [
            [
                resources.job_runner(
                    {RequestPayment: partial(jobs.request_payment, resources.database, cache, PaymentsClient(payments))}
                ),
                resources.consumer(
                    [PAYMENTS_STREAM],
                    dict.fromkeys((PaymentCaptured, PaymentFailed, PaymentCanceled, PaymentRefunded), on_payment),
                ),
            ],
            [resources.relay()],
        ]
    finally:
        await cache.close()
        await payments.close()
