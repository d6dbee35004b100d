"""The composition root of the worker process, which connects jobs, events and schedules with the resources that they
use.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.worker import Stages, WorkerResources, run_worker
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
    run_worker(live, version=version("holdfast-payments"), open_parts=_open_parts)


@asynccontextmanager
async def _open_parts(live: Live[PaymentsSettings], base: WorkerResources) -> AsyncIterator[Stages]:
    settings, database = live.current, base.database
    dependency = HttpDependency(
        "provider",
        settings.provider,
        authorization=bearer(settings.provider.api_key),
        breakers=base.breakers,
        is_external=True,
        quota=base.quota("provider"),
    )
    client = ProviderClient(dependency)
    job_runner = base.job_runner(
        {
            ChargePayment: partial(jobs.charge_payment, database, client),
            ReconcileCharge: partial(jobs.reconcile_charge, database, client),
            MakeRefund: partial(jobs.make_refund, database, client),
            ReconcileRefund: partial(jobs.reconcile_refund, database, client),
        }
    )
    consumer = base.consumer(
        [PROVIDER_STREAM],
        {
            ProviderChargeSucceeded: events.on_charge_succeeded,
            ProviderChargeFailed: events.on_charge_failed,
            ProviderRefundSucceeded: events.on_refund_succeeded,
            ProviderRefundFailed: events.on_refund_failed,
        },
    )
    scheduler = base.scheduler(_schedules(settings))
    try:
        yield [[job_runner, consumer, scheduler], [base.relay()]]
    finally:
        await dependency.close()


def _schedules(settings: PaymentsSettings) -> list[Schedule]:
    """The schedule enqueues jobs for open payments and refunds that have no job."""
    sweeps = settings.sweeps
    sweep = partial(use_cases.sweep, stale_after=sweeps.stale_after, batch=sweeps.batch)
    return [Schedule(name="sweep", every=sweeps.every, run=sweep)]
