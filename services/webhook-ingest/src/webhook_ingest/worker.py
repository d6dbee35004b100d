"""The composition root of the worker process: which jobs it runs, and with what."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.worker import Stages, WorkerResources, run_worker_process
from chassis.config import Live

from webhook_ingest import jobs
from webhook_ingest.messages import PublishEvent
from webhook_ingest.settings import WebhookIngestSettings


def run(live: Live[WebhookIngestSettings]) -> None:
    run_worker_process(live, version=version("holdfast-webhook-ingest"), open_parts=_open_parts)


@asynccontextmanager
async def _open_parts(resources: WorkerResources) -> AsyncIterator[Stages]:
    job_runner = resources.job_runner({PublishEvent: partial(jobs.publish_event, resources.database)})
    yield [[job_runner, resources.scheduler([])], [resources.relay()]]
