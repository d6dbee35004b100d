"""Every limit of the chassis, once: its default, its unit and the reason for the number.

Each class is one group of settings (`database.pool_size` is `HOLDFAST_DATABASE__POOL_SIZE`). A service's own
settings model derives from `ServiceSettings`; `chassis.config.load` fills it from the layers. The
reference page and `.env.example` are generated from these models.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from chassis.config.settings.dependencies import (
    BreakerSettings,
    DependencySettings,
    EgressSettings,
    ExternalDependencySettings,
    RetrySettings,
    ServiceDependencySettings,
)
from chassis.config.settings.model import (
    BROKEN_RULE,
    RELOADED,
    Group,
    Host,
    Identifier,
    Period,
    Port,
    Rule,
    Ruled,
    Seconds,
    Secret,
    ServiceSecret,
    Timeout,
    Url,
)
from chassis.config.settings.serving import (
    AuthSettings,
    HttpSettings,
    Level,
    LimitSettings,
    LogSettings,
    ManagementSettings,
    PrincipalName,
    RateLimitSettings,
    ReloadSettings,
    ShutdownSettings,
    TelemetrySettings,
)
from chassis.config.settings.storage import (
    BudgetSettings,
    CacheSettings,
    DatabaseSettings,
    IdempotencySettings,
    JobSettings,
    OutboxSettings,
    RedisSettings,
    SweepSettings,
)

__all__ = [
    "BROKEN_RULE",
    "RELOADED",
    "AuthSettings",
    "BreakerSettings",
    "BudgetSettings",
    "CacheSettings",
    "DatabaseSettings",
    "DependencySettings",
    "EgressSettings",
    "ExternalDependencySettings",
    "Group",
    "Host",
    "HttpSettings",
    "IdempotencySettings",
    "Identifier",
    "JobSettings",
    "Level",
    "LimitSettings",
    "LogSettings",
    "ManagementSettings",
    "OutboxSettings",
    "Period",
    "Port",
    "PrincipalName",
    "RateLimitSettings",
    "RedisSettings",
    "ReloadSettings",
    "RetrySettings",
    "Rule",
    "Ruled",
    "Seconds",
    "Secret",
    "ServiceDependencySettings",
    "ServiceSecret",
    "ServiceSettings",
    "ShutdownSettings",
    "SweepSettings",
    "TelemetrySettings",
    "Timeout",
    "Url",
]


class ServiceSettings(Ruled, BaseSettings):
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
    scopes: ClassVar[frozenset[str]] = frozenset()
    """What there is to be allowed here: a key with another scope is refused, as a mistake."""

    environment: Literal["dev", "test", "prod"] = Field(
        "dev", description="Which installation this is; it stands on every line, and decides on telemetry's default."
    )
    log: LogSettings = LogSettings()
    http: HttpSettings = HttpSettings()
    management: ManagementSettings = ManagementSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    reload: ReloadSettings = ReloadSettings()
    database: DatabaseSettings
    redis: RedisSettings = RedisSettings()
    auth: AuthSettings = AuthSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    cache: CacheSettings = CacheSettings()
    jobs: JobSettings = JobSettings()
    outbox: OutboxSettings = OutboxSettings()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("http.port", "≠", "management.port", "or what is only for inside is open to everybody"),
        Rule("database.pool_timeout", "<", "http.default_deadline", "or the caller has gone before the 503"),
        Rule("database.connect_timeout", "<", "http.default_deadline", "or the caller has gone before the 503"),
        Rule("database.statement_timeout", "<", "http.default_deadline", "or the caller has gone before the answer"),
        Rule("redis.timeout", "<", "http.default_deadline", "or a limiter decides for a caller who has gone"),
        Rule(
            "database.pool_timeout + database.connect_timeout + database.statement_timeout",
            "<",
            "cache.lock_ttl",
            "or the slowest load outlives its lease: another starts beside it and neither is stored",
        ),
        Rule("cache.wait_timeout", "<", "http.default_deadline", "or the caller has gone before the reader loads"),
        Rule("cache.bypass_concurrency", "<", "database.pool_size", "or reads without a cache leave none for writes"),
        # A worker's pool also serves the consumer and the scheduler.
        Rule(
            "jobs.concurrency + 2",
            "≤",
            "database.pool_size + database.max_overflow",
            "or jobs wait for a connection and fail for want of one",
        ),
        Rule("outbox.poll_interval", "<", "redis.stream_timeout", "or reading an idle stream is an error each time"),
        Rule(
            "redis.stream_timeout + outbox.poll_interval",
            "<",
            "outbox.leader_timeout",
            "or a relay loses the lead while it waits for Redis",
        ),
    )

    @model_validator(mode="after")
    def _scopes_exist(self) -> Self:
        unknown = sorted({scope for found in self.auth.service_scopes.values() for scope in found} - self.scopes)
        if unknown:
            raise ValueError(f"auth.service_scopes has scopes that {self.service_name} does not: {', '.join(unknown)}")
        return self

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
