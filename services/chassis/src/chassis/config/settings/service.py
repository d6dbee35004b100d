"""The settings that every service has, and the rules between their groups."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from chassis.config.settings.callers import AuthSettings, RateLimitSettings
from chassis.config.settings.edges import CallSum, Causes, call_sum
from chassis.config.settings.flags import Declaration, Flags, declarations
from chassis.config.settings.jobs import JobSettings, OutboxSettings
from chassis.config.settings.model import Rule, Ruled
from chassis.config.settings.serving import (
    HttpSettings,
    LogSettings,
    ManagementSettings,
    ReloadSettings,
    ShutdownSettings,
    TelemetrySettings,
)
from chassis.config.settings.storage import CacheSettings, DatabaseSettings, RedisSettings


class ServiceSettings(Ruled, BaseSettings):
    """The settings that every service has. A service derives a class, sets `service_name` and adds its own groups."""

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
    """The scopes that this service knows. Any other scope is a mistake: an API key with such a scope is not stored, and
    a configuration that gives such a scope to a calling service is refused.
    """

    causes: ClassVar[tuple[Causes, ...]] = ()
    """The calls to dependencies that a request to this service causes."""

    environment: Literal["dev", "test", "prod"] = Field(
        "dev",
        description="Kind of installation. Each log line has this value, which also sets the default of "
        "telemetry.sample_ratio.",
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
    flags: Flags = Flags()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("http.port", "≠", "management.port", "or the management port is open to the outside"),
        Rule("database.pool_timeout", "<", "http.default_deadline", "or the caller has left before the 503"),
        Rule("database.connect_timeout", "<", "http.default_deadline", "or the caller has left before the 503"),
        Rule("database.statement_timeout", "<", "http.default_deadline", "or the caller has left before the answer"),
        Rule("redis.timeout", "<", "http.default_deadline", "or a limiter decides for a caller that has left"),
        Rule(
            "database.pool_timeout + database.connect_timeout + database.statement_timeout",
            "<",
            "cache.lock_ttl",
            "or the slowest load outlives its lease: a second load starts, and neither result is stored",
        ),
        Rule(
            "cache.wait_timeout",
            "<",
            "http.default_deadline",
            "or the caller has left before the reader loads the value itself",
        ),
        Rule(
            "cache.bypass_concurrency",
            "<",
            "database.pool_size",
            "or reads that bypass the cache leave no connection for writes",
        ),
        # The 2 connections are for the worker's consumer and scheduler, which use the same pool as its jobs.
        Rule(
            "jobs.concurrency + 2",
            "≤",
            "database.pool_size + database.max_overflow",
            "or jobs fail because no connection becomes free",
        ),
        Rule("outbox.poll_interval", "<", "redis.stream_timeout", "or each read of an idle stream times out"),
        Rule(
            "redis.stream_timeout + outbox.poll_interval",
            "<",
            "outbox.leader_timeout",
            "or a relay loses its leadership while it waits for Redis",
        ),
    )

    @model_validator(mode="after")
    def _scopes_exist(self) -> Self:
        unknown = sorted({scope for found in self.auth.service_scopes.values() for scope in found} - self.scopes)
        if unknown:
            raise ValueError(f"auth.service_scopes has scopes that {self.service_name} does not: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _calling_services_have_limits(self) -> Self:
        edges = self.rate_limit.edges
        without = sorted(
            caller for caller in self.auth.service_scopes if self.service_name not in edges.get(caller, {})
        )
        if without:
            missing = ", ".join(f"rate_limit.edges.{caller}.{self.service_name}" for caller in without)
            raise ValueError(f"auth.service_scopes names services without a limit of their calls: add {missing}")
        return self

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        edges = self.rate_limit.edges.get(self.service_name, {})
        problems = [
            f"rate_limit.edges.{self.service_name}.{dependency} is {edges[dependency]:g}, but the callers of "
            f"{self.service_name} may cause {needed.total:g} calls per second: {needed}"
            for dependency, needed in self.call_sums.items()
            if dependency in edges and not needed.fits(edges[dependency])
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def call_sums(self) -> dict[str, CallSum]:
        """The calls per second that this service's callers may cause, by dependency."""
        return {one.dependency: call_sum(self.rate_limit, self.service_name, one) for one in self.causes}

    def calls_per_second(self, dependency: str) -> float | None:
        """The calls per second that all processes of this service together may make to the dependency; None means no
        limit. The number is that of `rate_limit.edges`. If the edge is missing there, it is the number of calls that
        this service's callers may cause.
        """
        needed = self.call_sums.get(dependency)
        edges = self.rate_limit.edges.get(self.service_name, {})
        return edges.get(dependency) or (needed.total if needed else None) or None

    @property
    def trace_sample_ratio(self) -> float:
        """The share of new traces that is recorded. In production a tenth of the traces is enough to see where time is
        spent.
        """
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
        """Use only the values that the constructor gets. `chassis.config.layers` has read the layers already, and
        records the origin of each value.
        """
        del cls, settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def flags_of(settings_type: type[ServiceSettings]) -> list[Declaration]:
    """The feature flags that a service declares."""
    kind = settings_type.model_fields["flags"].annotation
    assert isinstance(kind, type)  # noqa: S101  tells the type checker that the annotation is a class
    assert issubclass(kind, Flags)  # noqa: S101  tells the type checker that the class has flags
    return declarations(kind)
