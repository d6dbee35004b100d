"""The handler of webhook-ingest's job."""

from chassis.errors import PermanentJobError
from chassis.jobs import RunningJob
from chassis.pooling import Database

from webhook_ingest import use_cases
from webhook_ingest.messages import PublishEvent


async def publish_event(database: Database, job: RunningJob, payload: PublishEvent) -> None:
    """Everything it does is in one transaction with the job's end: exactly once.

    An event that cannot be read is dead, and so is its job: to replay the dead letter is to try the event again.
    """
    async with database.transaction() as session:
        problem = await use_cases.publish_event(session, payload.id)
        if problem is None:
            await job.complete_in(session)
    if problem is not None:
        raise PermanentJobError(problem)
