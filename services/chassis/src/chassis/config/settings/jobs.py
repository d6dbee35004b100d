"""Settings of background work: jobs, the backlog, the outbox and sweeps; and how long answers to idempotency keys are
stored.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from chassis.config.settings.model import RELOADED, Group, Period, Rule, Seconds, Timeout


class JobSettings(Group):
    queue: Annotated[str, Field(max_length=32, pattern=r"^[a-z][a-z0-9_]*$")] = Field(
        "default",
        description="Queue whose jobs a worker runs. Each job declares its queue. The name is a metric label.",
    )
    concurrency: int = Field(
        8, ge=1, le=100, description="Jobs that one worker runs at once; fewer than the worker's database connections."
    )
    lease: Seconds = Field(
        15.0,
        description="Seconds that a worker owns a job after its latest heartbeat. The worker sends three heartbeats in "
        "this time. After a crash, a job waits this long for another worker.",
    )
    poll_interval: Seconds = Field(1.0, description="Seconds between reads of the queue when no wake-up arrives.")
    backoff_base: Seconds = Field(
        1.0,
        description="Seconds. The wait before retry n of a job is random between 0 and min(backoff_cap, "
        "backoff_base·2ⁿ).",
    )
    backoff_cap: Seconds = Field(
        60.0, description="Seconds; the longest wait before a retry, and so the longest delay after an outage."
    )
    dead_retention: Period = Field(
        90 * 86_400.0,
        description="Seconds that a dead letter is stored: a quarter of a year, in which operators look at each dead "
        "letter.",
    )
    loop_limit: Seconds = Field(
        60.0,
        description="Seconds that a process's event loop may be blocked. Then the process prints the stack of every "
        "thread and ends. The limit is longer than a worker's leases, and than any pause that ends by itself.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("backoff_base", "≤", "backoff_cap", "or the cap bounds every wait"),
        Rule("lease", "<", "loop_limit", "or a process ends itself while it still owns its jobs"),
    )


class OutboxSettings(Group):
    batch: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Rows that are published together: some ms of work, which is repeated if the process dies.",
    )
    poll_interval: Seconds = Field(
        1.0,
        description="Seconds between reads of the outbox when no wake-up arrives. After this time, too, another relay "
        "replaces a relay that was killed.",
    )
    leader_timeout: Timeout = Field(
        15.0,
        description="Seconds of silence after which PostgreSQL ends the leading relay's session, so that another relay "
        "leads. Longer than the longest wait for Redis.",
    )
    retention: Period = Field(
        7 * 86_400.0, description="Seconds that a published row is stored, so that it can be published again: a week."
    )
    inbox_retention: Period = Field(
        14 * 86_400.0, description="Seconds that a consumed event's id is stored; more than `retention`."
    )
    stream_max_length: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="Approximate number of entries in a stream: a day at 1/s, under 100 MB. If a consumer group has "
        "that many unread entries, further events wait in the outbox.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("batch", "≤", "stream_max_length", "or a batch never fits into the stream"),
        Rule("retention", "<", "inbox_retention", "or an event that is published again is consumed twice"),
    )


class BacklogSettings(Group):
    """The limit of accepted work that is not done yet, as a time."""

    promise: Seconds = Field(
        30.0,
        description="Seconds within which accepted work is done. While the accepted work takes half of this time or "
        "more, at the measured rate, the API refuses new work with 503 and Retry-After.",
        json_schema_extra=RELOADED,
    )
    minimum_rate: float = Field(
        5.0,
        ge=0.1,
        le=10_000,
        description="Units of work per second that the whole installation is sure to finish. The API assumes this "
        "rate at its start, and never a lower rate. On two cores, the platform finishes four times as many orders.",
        json_schema_extra=RELOADED,
    )


class IdempotencySettings(Group):
    retention: Period = Field(
        86_400.0, description="Seconds that an answer is stored for its key: a day, far longer than any client retries."
    )


class SweepSettings(Group):
    """A sweep looks for rows that should have changed long ago, and starts the work on these rows again."""

    every: Seconds = Field(
        15.0, description="Seconds between sweeps. The rows that a sweep finds have waited far longer already."
    )
    stale_after: Seconds = Field(
        60.0,
        description="Seconds without a change after which a sweep takes up an open row. Usually a row is done in 0.5 "
        "s.",
    )
    batch: int = Field(
        200, ge=1, le=10_000, description="Rows that one sweep takes up. The limit keeps the sweep's transaction short."
    )
