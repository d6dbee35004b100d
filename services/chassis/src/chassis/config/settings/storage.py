"""Settings of PostgreSQL, Redis and caches."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SecretStr

from chassis.config.settings.model import (
    RELOADED,
    Group,
    Host,
    Identifier,
    Port,
    Rule,
    Seconds,
    Secret,
    Timeout,
)
from chassis.errors import ConfigurationError


class BudgetSettings(Group):
    """The processes that share the database server. Each process adds up the connections that all of them may open, and
    logs a warning if the sum is above the server's limit.
    """

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
        description="2 if old and new processes run side by side during a roll-out, and 1 otherwise.",
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
        description="Connections that no service takes: 3 that PostgreSQL reserves for superusers, and 7 for commands, "
        "psql and audits.",
        json_schema_extra=RELOADED,
    )


class DatabaseSettings(Group):
    host: Host = Field("127.0.0.1", description="Host of PostgreSQL.")
    port: Port = Field(5432, description="Port of PostgreSQL. The default is the usual port.")
    name: Identifier = Field(description="Name of the database. Each service has its own.")
    user: Identifier = Field(
        description="Role of a running process. It reads and writes rows, and cannot change the schema."
    )
    password: Secret = Field(
        description="Password of `user`. Each new connection uses the current password.", json_schema_extra=RELOADED
    )
    next_password: Secret | None = Field(
        None,
        description="Password that is about to replace `password`. A new connection tries `next_password` when "
        "`password` is refused, so that the change in the database causes no failures.",
        json_schema_extra=RELOADED,
    )
    migration_user: Identifier | None = Field(None, description="Role that owns the schema. Only `migrate` uses it.")
    migration_password: Secret | None = Field(None, description="Password of `migration_user`.")
    pool_size: int = Field(
        10,
        ge=1,
        le=100,
        description="Connections of one process. 200 requests/s × 15 ms use 3 connections on average; the rest is for "
        "bursts. At most 100, which is all that a PostgreSQL server allows by default.",
    )
    max_overflow: int = Field(
        0,
        ge=0,
        le=100,
        description="Connections beyond pool_size, which are closed after each use. The default is 0, because in a "
        "burst each such connection would log in and prepare its statements again and again.",
    )
    pool_timeout: Annotated[float, Field(gt=0, le=2)] = Field(
        1.0,
        description="Seconds to wait for a connection; then the request gets a 503. No caller waits SQLAlchemy's "
        "default of 30 s.",
    )
    pool_recycle: Annotated[float, Field(gt=0, le=86_400)] = Field(
        1800.0,
        description="Seconds until a connection is replaced: less than any firewall's idle limit. At most a day, so "
        "that no connection uses a replaced password for longer.",
    )
    connect_timeout: Timeout = Field(
        3.0, description="Seconds to open a connection: a hundred times the usual duration."
    )
    statement_timeout: Timeout = Field(
        5.0, description="Seconds until the server ends a statement: half the default deadline of a request."
    )
    idle_in_transaction_timeout: Timeout = Field(
        10.0, description="Seconds until the server ends an idle transaction: the default deadline of a request."
    )
    lock_timeout: Timeout = Field(2.0, description="Seconds to wait for a row lock; less than statement_timeout.")
    overdue_after: Timeout = Field(
        7.5,
        description="Seconds after which a connection that is still in use is logged, with the code that took it. "
        "Above statement_timeout, and below idle_in_transaction_timeout.",
    )
    held_calls: Literal["warn", "refuse"] = Field(
        "warn",
        description="Reaction to an outbound call while a connection is in use. `refuse` raises an error, for tests. "
        "`warn` logs each calling line of code once, since in production a slow call is better than a failed call.",
    )
    budget: BudgetSettings = BudgetSettings()

    rules: ClassVar[tuple[Rule, ...]] = (Rule("lock_timeout", "<", "statement_timeout", "or it never takes effect"),)

    def as_owner(self) -> Self:
        """The settings of the same database with the login of the role that owns the schema. Raises
        `ConfigurationError` if the user or the password of that role is not configured.
        """
        if self.migration_user is None or self.migration_password is None:
            names = ("MIGRATION_USER", "MIGRATION_PASSWORD")
            raise ConfigurationError([f"HOLDFAST_DATABASE__{name} is needed for this command" for name in names])
        login = {"user": self.migration_user, "password": self.migration_password, "next_password": None}
        return self.model_copy(update=login)

    @property
    def passwords(self) -> tuple[SecretStr, ...]:
        """The passwords that a new connection tries, in this order."""
        return (self.password, self.next_password) if self.next_password else (self.password,)


class RedisSettings(Group):
    host: Host = Field("127.0.0.1", description="Host of Redis or Valkey.")
    port: Port = Field(6379, description="Port of Redis. The default is the usual port.")
    password: Secret | None = Field(None, description="Password of Redis. None if the server needs none.")
    prefix: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")] = Field(
        "holdfast",
        description="Start of the name of every key. Installations that share a Redis need different prefixes: a "
        "second installation with the same prefix is refused.",
    )
    timeout: Annotated[float, Field(gt=0, le=5)] = Field(
        0.05,
        description="Seconds for a command of the limiter or the cache. After this time the limiter or the cache goes "
        "on without Redis.",
    )
    stream_timeout: Timeout = Field(5.0, description="Seconds for a stream command, which may block on purpose.")
    max_connections: int = Field(
        20, ge=1, le=1000, description="Connections of one process. The limiter and the cache need few."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("timeout", "≤", "stream_timeout", "which includes the time that a stream command blocks on purpose"),
    )


class CacheSettings(Group):
    ttl: Annotated[float, Field(gt=0, le=86_400)] = Field(
        60.0,
        description="Seconds that a value is fresh. A value may be this old if an invalidation is lost. At most a day.",
    )
    ttl_jitter: float = Field(
        0.1, ge=0, lt=1, description="Share by which a TTL is shortened at random, so that keys do not expire together."
    )
    stale_while_revalidate: float = Field(
        30.0,
        ge=0,
        le=86_400,
        description="Seconds after the TTL in which readers still get the old value at once, while it is loaded again.",
    )
    stale_if_error: float = Field(
        300.0,
        ge=0,
        le=86_400,
        description="Seconds after the TTL in which readers still get the old value when its origin fails or takes "
        "longer than wait_timeout. Five minutes: time for an operator to react.",
    )
    near_ttl: float = Field(
        1.0,
        ge=0,
        le=10,
        description="Seconds for which a process caches in its memory a value that it read from Redis. A value may be "
        "that much older, and most reads of a popular key need no call to Redis. 0 disables this cache.",
    )
    negative_ttl: Seconds = Field(
        5.0,
        description="Seconds that a missing value is cached as missing. The time is short, since the value may be "
        "created at any time.",
    )
    early_beta: float = Field(
        1.0,
        ge=0,
        le=10,
        description="How early a value is reloaded before its TTL ends, as a multiple of its load time (XFetch's β). "
        "With 1, about one reader of a busy key reloads it early. With 0, no reader does.",
    )
    lock_ttl: Timeout = Field(
        12.0,
        description="Seconds that a load may hold its lease, the token in Redis that lets only one process load a key. "
        "Longer than the longest load, because the result of a load that outlives its lease is not stored.",
    )
    wait_timeout: Timeout = Field(
        2.0,
        description="Seconds that a reader waits for another process's load or, while Redis is down, until fewer than "
        "bypass_concurrency loads run. A hundred times a usual load, and short enough for the reader to load the value "
        "itself afterwards.",
    )
    bypass_concurrency: int = Field(
        4,
        ge=1,
        le=100,
        description="Values that a process loads at once while Redis is down. Below database.pool_size, so that "
        "connections are left for writes.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("negative_ttl", "≤", "ttl", "or a missing value is cached for longer than an existing one"),
        Rule("stale_while_revalidate", "≤", "stale_if_error", "or a stale value is deleted before its time is over"),
    )
