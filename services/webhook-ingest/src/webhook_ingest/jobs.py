"""The handler of webhook-ingest's job."""

from chassis.jobs import RunningJob
from chassis.pooling import Database

from webhook_ingest import use_cases
from webhook_ingest.messages import PublishEvent


async def publish_event(database: Database, job: RunningJob, payload: PublishEvent) -> None:
    """Everything it does is in one transaction with the job's end: exactly once."""
    async with database.transaction() as session:
        await use_cases.publish_event(session, payload.id)
        await job.complete_in(session)
