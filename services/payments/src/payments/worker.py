"""The composition root of the worker process: which jobs it runs, which events it consumes, and with what."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.circuit_breaker import BreakerRegistry
from chassis.http_client import HttpDependency
from chassis.worker import Stages, WorkerResources, run_worker_process

from payments import events, jobs
from payments.messages import PROVIDER_STREAM, ChargePayment, ProviderChargeFailed, ProviderChargeSucceeded
from payments.provider_client import ProviderClient
from payments.settings import PaymentsSettings


def run(settings: PaymentsSettings) -> None:
    run_worker_process(settings, version=version("holdfast-payments"), open_parts=partial(_open_parts, settings))


@asynccontextmanager
async def _open_parts(settings: PaymentsSettings, resources: WorkerResources) -> AsyncIterator[Stages]:
    provider = HttpDependency("provider", settings.provider, breakers=BreakerRegistry())
    try:
        yield [
            [
                resources.job_runner(
                    {ChargePayment: partial(jobs.charge_payment, resources.database, ProviderClient(provider))}
                ),
                resources.consumer(
                    [PROVIDER_STREAM],
                    {
                        ProviderChargeSucceeded: events.on_charge_succeeded,
                        ProviderChargeFailed: events.on_charge_failed,
                    },
                ),
            ],
            [resources.relay()],
        ]
    finally:
        await provider.close()
