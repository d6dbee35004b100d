"""Settings of what is kept: database, Redis, caches, jobs, the outbox and what looks after them."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SecretStr

from chassis.config.settings.model import (
    RELOADED,
    Group,
    Host,
    Identifier,
    Period,
    Port,
    Rule,
    Seconds,
    Secret,
    Timeout,
)
from chassis.errors import ConfigurationError


class BudgetSettings(Group):
    """Who else opens connections on the same server: the start-up check adds it up. In a cluster the chart says it."""

    api_replicas: int = Field(
        1, ge=0, le=10_000, description="API processes of this service.", json_schema_extra=RELOADED
    )
    worker_replicas: int = Field(
        1, ge=0, le=10_000, description="Worker processes of this service.", json_schema_extra=RELOADED
    )
    generations: int = Field(
        1,
        ge=1,
        le=2,
        description="2 where all old processes may still drain beside as many new ones, as in a roll-out.",
        json_schema_extra=RELOADED,
    )
    others: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Connections that other services on the server may open.",
        json_schema_extra=RELOADED,
    )
    reserve: int = Field(
        10,
        ge=0,
        le=10_000,
        description="Connections that no process of ours takes: 3 that PostgreSQL keeps for superusers, and 7 for "
        "people: commands, psql, an audit.",
        json_schema_extra=RELOADED,
    )


class DatabaseSettings(Group):
    host: Host = Field("127.0.0.1", description="Where PostgreSQL is.")
    port: Port = Field(5432, description="PostgreSQL's own default.")
    name: Identifier = Field(description="One database per service.")
    user: Identifier = Field(description="The role of run time: reads and writes rows, cannot change the schema.")
    password: Secret = Field(
        description="Of the role of run time. New connections take the current one.", json_schema_extra=RELOADED
    )
    next_password: Secret | None = Field(
        None,
        description="One that is about to become valid: tried when `password` is refused, so that it can be replaced "
        "in the database without a gap.",
        json_schema_extra=RELOADED,
    )
    migration_user: Identifier | None = Field(None, description="The role that owns the schema; only `migrate` has it.")
    migration_password: Secret | None = Field(None, description="Of the role that owns the schema.")
    pool_size: int = Field(
        10,
        ge=1,
        le=100,
        description="Connections kept. N = λ × hold time: 200 requests/s × 15 ms = 3, and room for bursts. "
        "100 is all that a PostgreSQL allows by default.",
    )
    max_overflow: int = Field(
        0,
        ge=0,
        le=100,
        description="Connections beyond pool_size, closed when given back. None: in a burst each would log in and "
        "prepare its statements anew, all the time.",
    )
    pool_timeout: Annotated[float, Field(gt=0, le=2)] = Field(
        1.0,
        description="Seconds to wait for a connection, then 503. SQLAlchemy's 30 s outlives every caller.",
    )
    pool_recycle: Annotated[float, Field(gt=0, le=86_400)] = Field(
        1800.0,
        description="Seconds until a connection is replaced: under every idle cut-off. At most a day, so that a "
        "replaced password is no longer in use the day after.",
    )
    connect_timeout: Timeout = Field(3.0, description="Seconds to open a connection: a hundred times a usual one.")
    statement_timeout: Timeout = Field(
        5.0, description="Seconds until the server ends a statement: half the default deadline."
    )
    idle_in_transaction_timeout: Timeout = Field(
        10.0, description="Seconds until the server ends an idle transaction: a request's deadline."
    )
    lock_timeout: Timeout = Field(2.0, description="Seconds to wait for a row lock; less than statement_timeout.")
    overdue_after: Timeout = Field(
        7.5,
        description="Seconds after which a connection that is held is told, with the place that took it: above one "
        "statement's 5, and below the 10 after which the server ends what idles.",
    )
    held_calls: Literal["warn", "refuse"] = Field(
        "warn",
        description="An outbound call while a connection is held: `refuse` finds it in tests; `warn` tells each place "
        "once, since a slow call is better than none in production.",
    )
    budget: BudgetSettings = BudgetSettings()

    rules: ClassVar[tuple[Rule, ...]] = (Rule("lock_timeout", "<", "statement_timeout", "or it never takes effect"),)

    def as_owner(self) -> Self:
        """The same database for the role that owns the schema; raises `ConfigurationError` without its login."""
        if self.migration_user is None or self.migration_password is None:
            names = ("MIGRATION_USER", "MIGRATION_PASSWORD")
            raise ConfigurationError([f"HOLDFAST_DATABASE__{name} is needed for this" for name in names])
        login = {"user": self.migration_user, "password": self.migration_password, "next_password": None}
        return self.model_copy(update=login)

    @property
    def passwords(self) -> tuple[SecretStr, ...]:
        """What a new connection shows, in this order, until one is taken."""
        return (self.password, self.next_password) if self.next_password else (self.password,)


class RedisSettings(Group):
    host: Host = Field("127.0.0.1", description="Where Redis or Valkey is.")
    port: Port = Field(6379, description="Redis' own default.")
    password: Secret | None = Field(None, description="None: the server wants none.")
    prefix: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")] = Field(
        "holdfast",
        description="How all keys begin. Each installation on a Redis needs one of its own: a second one is refused.",
    )
    timeout: Annotated[float, Field(gt=0, le=5)] = Field(
        0.05, description="Seconds for a limiter or cache command; past it the caller does without."
    )
    stream_timeout: Timeout = Field(5.0, description="Seconds for a stream command, which may block on purpose.")
    max_connections: int = Field(
        20, ge=1, le=1000, description="Connections of one process; the limiter and cache need few."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("timeout", "≤", "stream_timeout", "which also covers what blocks on purpose"),
    )


class CacheSettings(Group):
    ttl: Annotated[float, Field(gt=0, le=86_400)] = Field(
        60.0, description="Seconds a value is fresh: how old it may be where no invalidation arrived. At most a day."
    )
    ttl_jitter: float = Field(
        0.1, ge=0, lt=1, description="Share by which a TTL is shortened at random, so that keys do not expire together."
    )
    stale_while_revalidate: float = Field(
        30.0,
        ge=0,
        le=86_400,
        description="Seconds after that for which a value is answered at once, while it is loaded anew.",
    )
    stale_if_error: float = Field(
        300.0,
        ge=0,
        le=86_400,
        description="Seconds after that for which a value is answered when its origin fails or takes longer than "
        "wait_timeout: five minutes, in which somebody comes to look.",
    )
    near_ttl: float = Field(
        1.0,
        ge=0,
        le=10,
        description="Seconds for which a process answers from its memory what it read from Redis, where a value "
        "may be so much older: nobody notices a second, and it is most reads of a popular key. 0: always ask Redis.",
    )
    negative_ttl: Seconds = Field(5.0, description="Seconds an absence is remembered: short, since creation ends it.")
    early_beta: float = Field(
        1.0,
        ge=0,
        le=10,
        description="How early a value is renewed before its TTL is over, in times of its load (XFetch's β). 1: about "
        "one reader of a busy key does so; 0: none, it turns stale first.",
    )
    lock_ttl: Timeout = Field(
        12.0,
        description="Seconds a load may hold its lease: above all that it may wait for, since what comes later is not "
        "stored.",
    )
    wait_timeout: Timeout = Field(
        2.0,
        description="Seconds a reader waits for another process's load, or for its turn while Redis fails: a hundred "
        "times a usual load, and short enough to load by itself after it.",
    )
    bypass_concurrency: int = Field(
        4, ge=1, le=100, description="Loads at once while Redis fails: below database.pool_size, so that writes pass."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("negative_ttl", "≤", "ttl", "or what is absent is believed for longer than what is there"),
        Rule("stale_while_revalidate", "≤", "stale_if_error", "or a stale value has gone before its time is over"),
    )


class JobSettings(Group):
    queue: Annotated[str, Field(max_length=32, pattern=r"^[a-z][a-z0-9_]*$")] = Field(
        "default", description="The queue that a worker serves; a job declares its own. A label of metrics."
    )
    concurrency: int = Field(
        8, ge=1, le=100, description="Jobs one worker runs at once; below its database connections."
    )
    lease: Seconds = Field(
        15.0,
        description="Seconds a worker owns a job without a heartbeat, which comes every third of it; a crash costs "
        "this much.",
    )
    poll_interval: Seconds = Field(1.0, description="Seconds between looks when no wake-up arrives.")
    backoff_base: Seconds = Field(1.0, description="Seconds; retry n of a job waits U(0, min(backoff_cap, base·2ⁿ)).")
    backoff_cap: Seconds = Field(60.0, description="Seconds; cap of one wait: how long after an outage it goes on.")
    backlog_limit: int = Field(
        10_000,
        ge=1,
        le=100_000,
        description="Waiting jobs from which an API refuses what would add to them, until 80 % are left. Above what an "
        "outage of a minute piles up at 100 orders/s; counting that many takes 2 ms, once a second.",
    )
    dead_retention: Period = Field(
        90 * 86_400.0,
        description="Seconds a dead letter is kept: a quarter, in which somebody has looked at each or never will.",
    )
    loop_limit: Seconds = Field(
        60.0,
        description="Seconds a process's event loop may stand still; then the process tells where, and ends. "
        "A worker's leases ran out long before: above every pause that ends by itself.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("backoff_base", "≤", "backoff_cap", "or every wait is the cap"),
        Rule("lease", "<", "loop_limit", "or a process ends for a pause that costs it no job"),
    )


class OutboxSettings(Group):
    batch: int = Field(
        100, ge=1, le=10_000, description="Rows published in one go: some ms of work, lost when the process dies."
    )
    poll_interval: Seconds = Field(
        1.0, description="Seconds between looks when no wake-up arrives, and until a killed relay is followed."
    )
    leader_timeout: Timeout = Field(
        15.0,
        description="Seconds of silence after which PostgreSQL ends a relay's session, so that another one leads: "
        "above the longest wait for Redis.",
    )
    retention: Period = Field(
        7 * 86_400.0, description="Seconds a published row is kept to be published again: a week."
    )
    inbox_retention: Period = Field(14 * 86_400.0, description="Seconds a consumed event id is kept; above retention.")
    stream_max_length: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="Entries a stream keeps, approximately: a day at 1/s, under 100 MB. When a group has not read that "
        "many, further events wait in the outbox.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("batch", "≤", "stream_max_length", "or a batch never fits into the stream"),
        Rule("retention", "<", "inbox_retention", "or an event published again is taken for a new one"),
    )


class IdempotencySettings(Group):
    retention: Period = Field(
        86_400.0, description="Seconds an answer is kept for its key: a day, far beyond any client's retries."
    )


class SweepSettings(Group):
    """Sweeps look for what no job and no event moves any more."""

    every: Seconds = Field(15.0, description="Seconds between sweeps; what they find has waited far longer already.")
    stale_after: Seconds = Field(
        60.0, description="Seconds without a change before something open is asked about: far above a usual 0.5 s."
    )
    batch: int = Field(
        200, ge=1, le=10_000, description="Rows one sweep takes up, so that its transaction stays short."
    )
