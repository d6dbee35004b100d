"""Every limit of the chassis, once: its default, its unit and the reason for the number.

Each class is one group of settings (`database.pool_size` is `HOLDFAST_DATABASE__POOL_SIZE`). A service's own
settings model derives from `ServiceSettings`; `chassis.config.load` fills it from the layers. The
reference page and `.env.example` are generated from these models.
"""

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

type Seconds = Annotated[float, Field(gt=0)]
type Port = Annotated[int, Field(ge=1, le=65535)]
type Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class Group(BaseModel):
    """A group of settings: immutable, a name it does not know is an error, and errors do not quote values."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class LogSettings(Group):
    level: Level = Field("INFO", description="Lowest level that is written. Production runs at INFO.")
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="One line for people (`console`) or machines (`json`); `auto`: people have a terminal."
    )


class HttpSettings(Group):
    """The public port."""

    host: str = Field("127.0.0.1", description="Loopback, so that nothing is exposed by accident; pods set 0.0.0.0.")
    port: Port = 8000
    max_body_bytes: int = Field(
        65_536,
        gt=0,
        description="64 KiB: the largest order (50 lines) is under 8 KiB; more is refused with 413.",
    )
    max_concurrent_requests: int = Field(
        200,
        gt=0,
        description="What one process holds at once before it answers 503: 20 × its database connections.",
    )
    default_deadline: Seconds = Field(
        10.0,
        description="Seconds a request may take when its caller sends no deadline; above every call time-out.",
    )


class ManagementSettings(Group):
    """The management port: probes, metrics and who this is."""

    host: str = "127.0.0.1"
    port: Port = 9000
    token: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        None,
        description="What an operator shows to change something on this port; without one nothing can be changed. "
        "At least 32 characters: 128 random bits in hex, which nobody guesses.",
    )


class ShutdownSettings(Group):
    readiness_delay: float = Field(
        0.0,
        ge=0,
        description="Seconds between failing readiness and closing; 5 in a cluster, where routing lags.",
    )
    drain_timeout: Seconds = Field(20.0, description="Seconds for requests and jobs to finish; then handed back.")


class DatabaseSettings(Group):
    host: str = "127.0.0.1"
    port: Port = 5432
    name: str = Field(description="One database per service.")
    user: str = Field(description="The role of run time: reads and writes rows, cannot change the schema.")
    password: SecretStr
    migration_user: str | None = Field(None, description="The role that owns the schema; only `migrate` has it.")
    migration_password: SecretStr | None = None
    pool_size: int = Field(
        5,
        gt=0,
        description="Connections kept. N = λ × hold time: 200 requests/s × 15 ms = 3, and room for bursts.",
    )
    max_overflow: int = Field(5, ge=0, description="Connections beyond pool_size, closed when given back.")
    pool_timeout: Annotated[float, Field(gt=0, le=2)] = Field(
        1.0,
        description="Seconds to wait for a connection, then 503. SQLAlchemy's 30 s outlives every caller.",
    )
    pool_recycle: Seconds = Field(
        1800.0, description="Seconds until a connection is replaced: under every idle cut-off."
    )
    connect_timeout: Seconds = Field(3.0, description="Seconds to open a connection.")
    statement_timeout: Seconds = Field(5.0, description="Seconds until the server ends a statement.")
    idle_in_transaction_timeout: Seconds = Field(10.0, description="Seconds until the server ends an idle transaction.")
    lock_timeout: Seconds = Field(2.0, description="Seconds to wait for a row lock; less than statement_timeout.")

    @model_validator(mode="after")
    def _lock_before_statement(self) -> "DatabaseSettings":
        if self.lock_timeout >= self.statement_timeout:
            raise ValueError("lock_timeout must be less than statement_timeout, or it never takes effect")
        return self


class RedisSettings(Group):
    host: str = "127.0.0.1"
    port: Port = 6379
    password: SecretStr | None = None
    timeout: Seconds = Field(
        0.05, description="Seconds for a limiter or cache command; past it the caller does without."
    )
    stream_timeout: Seconds = Field(5.0, description="Seconds for a stream command, which may block on purpose.")
    max_connections: int = Field(20, gt=0, description="Connections of one process; the limiter and cache need few.")


def _is_sha256(digest: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[0-9a-f]{64}", digest.get_secret_value()):
        raise ValueError("must be a SHA-256 in hex: 64 of 0-9 and a-f")
    return digest


type KeyHash = Annotated[SecretStr, AfterValidator(_is_sha256)]


class AuthSettings(Group):
    keys: dict[str, KeyHash] = Field(
        default_factory=dict,
        description="Who may call: principal → SHA-256 of its key, in hex. Keys are 256 random bits: no salt needed.",
    )


class TelemetrySettings(Group):
    otlp_endpoint: str | None = Field(
        None, description="Base URL of an OTLP/HTTP collector; none: nothing is exported."
    )
    sample_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of new traces recorded; a caller's decision goes first. None: 0.1 in prod, elsewhere all.",
    )


class RateLimitSettings(Group):
    rate_per_second: float = Field(
        10.0,
        gt=0,
        le=10_000,
        description="Sustained cost per principal and second; at 10,000, whole microseconds per unit are 1 % off.",
    )
    burst: int = Field(50, gt=0, description="Cost a rested principal may spend at once.")
    tiers: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Tier → factor on rate_per_second and burst; one not named here has 1. All are `standard` so far.",
    )
    replicas: int = Field(
        1, gt=0, description="Processes that share a limit: the local limiter allows limit ÷ replicas."
    )
    redis_pause: Seconds = Field(
        1.0, description="Seconds without asking Redis after it failed; then one request tries, at redis.timeout."
    )
    local_keys: int = Field(
        10_000, gt=0, description="Principals the local limiter remembers, about 2 MB; the longest away goes first."
    )


class CacheSettings(Group):
    ttl: Seconds = Field(60.0, description="Seconds a value is fresh.")
    ttl_jitter: float = Field(
        0.1, ge=0, lt=1, description="Share by which a TTL is shortened at random, so that keys do not expire together."
    )
    stale_ttl: float = Field(
        30.0, ge=0, description="Seconds a value is served after that, while it is loaded anew or its origin fails."
    )
    negative_ttl: Seconds = Field(5.0, description="Seconds an absence is remembered: short, since creation ends it.")
    lock_ttl: Seconds = Field(3.0, description="Seconds a recomputation may hold the lock: above its slowest query.")
    bypass_concurrency: int = Field(
        4, gt=0, description="Loads at once while Redis fails: below database.pool_size, so that writes still pass."
    )


class RetrySettings(Group):
    max_attempts: int = Field(
        3, ge=1, le=10, description="Attempts in all, the first one included; more only prolongs an outage."
    )
    base_delay: Seconds = Field(0.1, description="Seconds; wait n = 0, 1, … is U(0, min(max_delay, base_delay·2ⁿ)).")
    max_delay: Seconds = Field(2.0, description="Seconds; cap of one wait.")
    total_timeout: Seconds = Field(
        7.0, description="Seconds for all attempts and waits: 3 × 2 s and the waits, below the default deadline."
    )
    budget_ratio: float = Field(
        0.1, ge=0, le=1, description="Retries earned per call: 10 % keeps a storm at 1.1 × load."
    )
    budget_floor: float = Field(
        10.0, ge=0, description="Retries in hand at rest, so that a quiet service may retry; a storm spends them once."
    )
    budget_refill_seconds: Seconds = Field(60.0, description="Seconds in which a spent floor comes back by itself.")


class BreakerSettings(Group):
    """The preset for a flaky external dependency; `docs/patterns/circuit_breaker.md` has the others."""

    failure_rate: float = Field(0.5, gt=0, le=1, description="Share of failed calls in the window that opens it.")
    slow_call_rate: float = Field(0.8, gt=0, le=1, description="Share of slow calls in the window that opens it.")
    slow_call_duration: Seconds = Field(
        1.0, description="Seconds from which a call is slow: half the attempt time-out, or it would never show."
    )
    minimum_calls: int = Field(5, ge=1, description="Calls in the window before rates mean anything.")
    window_size: int = Field(20, ge=1, description="Calls the window holds.")
    window_seconds: Seconds = Field(60.0, description="Seconds after which a call leaves the window.")
    open_seconds: Seconds = Field(
        10.0, description="Seconds open before it lets calls try; doubled each time it fails."
    )
    max_open_seconds: Seconds = Field(60.0, description="Seconds; cap of that doubling.")
    open_jitter: float = Field(
        0.2, ge=0, lt=1, description="Share by which open time varies, so that replicas do not try together."
    )
    half_open_calls: int = Field(
        1, ge=1, description="Calls that may try while half-open, in flight included; as many successes close it."
    )

    @model_validator(mode="after")
    def _reachable(self) -> "BreakerSettings":
        if self.minimum_calls > self.window_size:
            raise ValueError("minimum_calls must not be above window_size, or it never opens")
        if self.open_seconds > self.max_open_seconds:
            raise ValueError("open_seconds must not be above max_open_seconds")
        return self


class DependencySettings(Group):
    """One HTTP dependency: where it is, and how a call to it is bounded."""

    base_url: str
    api_key: SecretStr
    connect_timeout: Seconds = Field(1.0, description="Seconds to get a connection, the pool's queue included.")
    attempt_timeout: Seconds = Field(2.0, description="Seconds for one attempt, from sending to the last byte.")
    max_connections: int = Field(20, gt=0, description="Connections of one process to this dependency.")
    max_in_flight: int = Field(16, gt=0, description="Bulkhead: calls under way at once, below max_connections.")
    max_response_bytes: int = Field(
        1_048_576, gt=0, description="1 MiB: a thousand times the largest answer we expect."
    )
    retry: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()

    @model_validator(mode="after")
    def _inner_limits_first(self) -> "DependencySettings":
        if self.connect_timeout > self.attempt_timeout:
            raise ValueError("connect_timeout must not be above attempt_timeout, or it never takes effect")
        if self.attempt_timeout > self.retry.total_timeout:
            raise ValueError("attempt_timeout must not be above retry.total_timeout, or it never takes effect")
        if self.breaker.slow_call_duration >= self.attempt_timeout:
            raise ValueError("breaker.slow_call_duration must be below attempt_timeout, or no call is ever slow")
        if self.max_in_flight > self.max_connections:
            raise ValueError("max_in_flight must not be above max_connections, or calls wait in the pool's queue")
        return self


class EgressSettings(Group):
    """Where requests may go whose address a customer chose."""

    allow_insecure: bool = Field(False, description="Also http: for development and tests.")
    allowed_ports: tuple[Port, ...] = Field((443,), description="Others would let a customer look for what listens.")
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Networks that are allowed though they are not public, such as 127.0.0.0/8 in development."
    )


class JobSettings(Group):
    concurrency: int = Field(8, gt=0, description="Jobs one worker runs at once; below its database connections.")
    lease: Seconds = Field(
        15.0, description="Seconds a worker owns a job without a heartbeat; a crash costs this much."
    )
    poll_interval: Seconds = Field(1.0, description="Seconds between looks when no wake-up arrives.")
    backoff_base: Seconds = Field(1.0, description="Seconds; retry n of a job waits U(0, min(backoff_cap, base·2ⁿ)).")
    backoff_cap: Seconds = Field(60.0, description="Seconds; cap of one wait.")


class OutboxSettings(Group):
    batch: int = Field(100, gt=0, description="Rows published in one go.")
    poll_interval: Seconds = Field(1.0, description="Seconds between looks when no wake-up arrives.")
    retention: Seconds = Field(7 * 86_400.0, description="Seconds a published row is kept to be published again.")
    inbox_retention: Seconds = Field(14 * 86_400.0, description="Seconds a consumed event id is kept; above retention.")
    stream_max_length: int = Field(100_000, gt=0, description="Entries a stream keeps, approximately: a day at 1/s.")


class IdempotencySettings(Group):
    retention: Seconds = Field(
        86_400.0, description="Seconds an answer is kept for its key: a day, far beyond any client's retries."
    )


class SweepSettings(Group):
    """Sweeps look for what no job and no event moves any more."""

    every: Seconds = Field(15.0, description="Seconds between sweeps; what they find has waited far longer already.")
    stale_after: Seconds = Field(
        60.0, description="Seconds without a change before something open is asked about: far above a usual 0.5 s."
    )
    batch: int = Field(200, gt=0, description="Rows one sweep takes up, so that its transaction stays short.")


class ServiceSettings(BaseSettings):
    """What every service has. A service derives from it, names itself and adds its own groups."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix="HOLDFAST_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )
    service_name: ClassVar[str]

    environment: Literal["dev", "test", "prod"] = "dev"
    log: LogSettings = LogSettings()
    http: HttpSettings = HttpSettings()
    management: ManagementSettings = ManagementSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    database: DatabaseSettings
    redis: RedisSettings = RedisSettings()
    auth: AuthSettings = AuthSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    cache: CacheSettings = CacheSettings()
    jobs: JobSettings = JobSettings()
    outbox: OutboxSettings = OutboxSettings()

    @property
    def trace_sample_ratio(self) -> float:
        """The share of new traces that is recorded: a tenth shows where time goes, at a tenth of the cost."""
        if self.telemetry.sample_ratio is not None:
            return self.telemetry.sample_ratio
        return 0.1 if self.environment == "prod" else 1.0

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given: `chassis.config.load` reads the layers, since it also has to explain them."""
        del cls, settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)
