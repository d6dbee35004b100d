"""The composition root of the worker process: which jobs it runs, which events it consumes, and with what."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.worker import Stages, WorkerResources, run_worker_process
from chassis.calls.http_client import HttpDependency, bearer
from chassis.config import Live
from chassis.jobs.schedules import Schedule

from payments import events, jobs, use_cases
from payments.messages import (
    PROVIDER_STREAM,
    ChargePayment,
    MakeRefund,
    ProviderChargeFailed,
    ProviderChargeSucceeded,
    ProviderRefundFailed,
    ProviderRefundSucceeded,
    ReconcileCharge,
    ReconcileRefund,
)
from payments.provider_client import ProviderClient
from payments.settings import PaymentsSettings


def run(live: Live[PaymentsSettings]) -> None:
    run_worker_process(live, version=version("holdfast-payments"), open_parts=partial(_open_parts, live.current))


@asynccontextmanager
async def _open_parts(settings: PaymentsSettings, resources: WorkerResources) -> AsyncIterator[Stages]:
    provider = HttpDependency(
        "provider",
        settings.provider,
        authorization=bearer(settings.provider.api_key),
        breakers=resources.breakers,
        is_external=True,
    )
    client = ProviderClient(provider)
    database, sweeps = resources.database, settings.sweeps
    sweep = partial(use_cases.sweep, stale_after=sweeps.stale_after, batch=sweeps.batch)
    try:
        yield [
            [
                resources.job_runner(
                    {
                        ChargePayment: partial(jobs.charge_payment, database, client),
                        ReconcileCharge: partial(jobs.reconcile_charge, database, client),
                        MakeRefund: partial(jobs.make_refund, database, client),
                        ReconcileRefund: partial(jobs.reconcile_refund, database, client),
                    }
                ),
                resources.consumer(
                    [PROVIDER_STREAM],
                    {
                        ProviderChargeSucceeded: events.on_charge_succeeded,
                        ProviderChargeFailed: events.on_charge_failed,
                        ProviderRefundSucceeded: events.on_refund_succeeded,
                        ProviderRefundFailed: events.on_refund_failed,
                    },
                ),
                resources.scheduler([Schedule(name="sweep", every=sweeps.every, run=sweep)]),
            ],
            [resources.relay()],
        ]
    finally:
        await provider.close()
