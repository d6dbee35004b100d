"""Adding jobs: each is a row that commits with the caller's transaction."""

from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from chassis.jobs.payload import JobOptions, JobPayload
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.logging import debug_header
from chassis.pooling import HotSession, execute_in
from chassis.pooling.wakeup import wake_after_commit
from chassis.telemetry import SpanKind, current_traceparent, span


async def enqueue(
    session: AsyncSession,
    payload: JobPayload,
    *,
    unique_key: str | None = None,
    delay: float = 0,
    deadline: float | None = None,
) -> bool:
    """Add the job to the session's transaction: the job exists if and only if the transaction commits.

    The job becomes due after `delay` seconds. No attempt starts later than `deadline` seconds from now, and the job's
    outbound calls get the time that is left of it.

    Returns False when a job of this name with the same deduplication key (`unique_key`, or the payload's own) already
    waits. A running job does not count, since it may have read older state.
    """
    with _producer_span(payload.options):
        values = _values(payload) | {"delay": delay, "deadline": deadline}
        if unique_key:
            values["job_unique_key"] = unique_key
        statement = "enqueue" if values["job_unique_key"] is None else "enqueue_unique"
        is_added = await execute_in(session, DRIVER_STATEMENTS[statement], **values) > 0
    if is_added and delay <= 0:
        wake_after_commit(session, wakeup_channel(payload.options.queue))
    return is_added


def insert_values(session: HotSession, payload: JobPayload) -> dict[str, Any]:
    """The values, named `job_…`, with which a service's own statement inserts this job, due at once, into `job`."""
    wake_after_commit(session, wakeup_channel(payload.options.queue))
    with _producer_span(payload.options):
        return _values(payload)


def wakeup_channel(queue: str) -> str:
    """The channel on which the workers of a queue are notified."""
    return f"jobs_{queue}"


def _producer_span(options: JobOptions) -> AbstractContextManager[object]:
    return span(f"enqueue {options.name}", kind=SpanKind.PRODUCER, attributes=lambda: _attributes(options))


def _attributes(options: JobOptions) -> dict[str, str | int]:
    return {
        "messaging.system": "postgresql",
        "messaging.operation.type": "send",
        "messaging.destination.name": options.queue,
    }


def _values(payload: JobPayload) -> dict[str, Any]:
    options = payload.options
    return {
        "job_name": options.name,
        "job_queue": options.queue,
        "job_priority": options.priority,
        "job_payload": payload.model_dump_json(),
        "job_version": options.version,
        "job_max_attempts": options.max_attempts,
        "job_unique_key": payload.unique_key,
        "job_traceparent": current_traceparent(),
        "job_debug": debug_header(),
    }
