"""Adds jobs: each job is a row that commits with the caller's transaction."""

from contextlib import AbstractContextManager

from chassis.jobs.payload import JobOptions, JobPayload
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.logging import debug_header
from chassis.pooling import Row, Session
from chassis.telemetry import SpanKind, current_traceparent, span


async def enqueue(
    session: Session,
    payload: JobPayload,
    *,
    unique_key: str | None = None,
    delay: float = 0,
    deadline: float | None = None,
) -> bool:
    """Add the job to the session's transaction: the job exists if and only if the transaction commits.

    The job becomes due after `delay` seconds. No attempt starts later than `deadline` seconds from now. The outbound
    calls of an attempt get the rest of this time as their deadline.

    Returns False, without a new job, if a job with this name and deduplication key already waits. The key is
    `unique_key`, or, if `unique_key` is None, the payload's own key. A running job with the same key does not prevent
    the new job, since the running job may have read its data before the caller's change.
    """
    return await session.insert(job_row(payload, unique_key=unique_key, delay=delay, deadline=deadline)) > 0


def job_row(
    payload: JobPayload, *, unique_key: str | None = None, delay: float = 0, deadline: float | None = None
) -> Row:
    """The row that `enqueue` inserts. `Session.insert` can insert this row together with other rows."""
    options = payload.options
    key = unique_key or payload.unique_key
    with _producer_span(options):
        values = {
            "job_name": options.name,
            "job_queue": options.queue,
            "job_priority": options.priority,
            "job_payload": payload.model_dump_json(),
            "job_version": options.version,
            "job_max_attempts": options.max_attempts,
            "job_unique_key": key,
            "job_traceparent": current_traceparent(),
            "job_debug": debug_header(),
            "delay": delay,
            "deadline": deadline,
        }
    statement = DRIVER_STATEMENTS["enqueue" if key is None else "enqueue_unique"]
    return Row(statement=statement, values=values, wakes=wakeup_channel(options.queue) if delay <= 0 else None)


def wakeup_channel(queue: str) -> str:
    """The PostgreSQL channel on which the workers of a queue are notified of new jobs."""
    return f"jobs_{queue}"


def _producer_span(options: JobOptions) -> AbstractContextManager[object]:
    return span(f"enqueue {options.name}", kind=SpanKind.PRODUCER, attributes=lambda: _attributes(options))


def _attributes(options: JobOptions) -> dict[str, str | int]:
    return {
        "messaging.system": "postgresql",
        "messaging.operation.type": "send",
        "messaging.destination.name": options.queue,
    }
