"""The composition root of the worker process, which connects its jobs with the resources that they use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.worker import Stages, WorkerResources, run_worker
from chassis.config import Live

from webhook_ingest import jobs
from webhook_ingest.messages import PublishEvent
from webhook_ingest.settings import WebhookIngestSettings


def run(live: Live[WebhookIngestSettings]) -> None:
    run_worker(live, version=version("holdfast-webhook-ingest"), open_parts=_open_parts)


@asynccontextmanager
async def _open_parts(_: Live[WebhookIngestSettings], base: WorkerResources) -> AsyncIterator[Stages]:
    job_runner = base.job_runner({PublishEvent: partial(jobs.publish_event, base.database)})
    yield [[job_runner, base.scheduler()], [base.relay()]]
