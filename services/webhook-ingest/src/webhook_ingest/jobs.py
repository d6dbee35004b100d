"""The handler of webhook-ingest's job."""

from chassis.errors import PermanentJobError
from chassis.jobs import RunningJob
from chassis.pooling import Database

from webhook_ingest import use_cases
from webhook_ingest.messages import PublishEvent


async def publish_event(database: Database, job: RunningJob, payload: PublishEvent) -> None:
    """Publish the event and complete the job in one transaction, so the event is published exactly once.

    An event that we cannot parse is marked `dead`, and its job becomes a dead letter. A replay of the dead letter
    processes the event again.
    """
    async with database.transaction() as session:
        problem = await use_cases.publish_event(session, payload.id)
        if problem is None:
            await job.complete_in(session)
    if problem is not None:
        raise PermanentJobError(problem)
