"""Settings of what faces callers and operators: logs, ports, callers' keys, limits, the end of the process."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from chassis.config.settings.model import (
    RELOADED,
    Group,
    ListenHost,
    Period,
    Port,
    Rule,
    Seconds,
    ServiceSecret,
    Timeout,
    Url,
)
from chassis.errors import DOCUMENTATION_URL

type Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class LogSettings(Group):
    level: Level = Field(
        "INFO",
        description="Lowest level that is written. Production runs at INFO.",
        json_schema_extra=RELOADED,
    )
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="One line for people (`console`) or machines (`json`); `auto`: people have a terminal."
    )
    debug_key: Annotated[SecretStr, Field(min_length=32, max_length=4096)] | None = Field(
        None, description="Signs the header that turns DEBUG on for one request; none: no header does."
    )
    queue_bytes: int = Field(
        4_194_304,
        ge=65_536,
        le=268_435_456,
        description="4 MiB of lines may wait for stdout, 10 s at 800 lines a second; what comes then is dropped.",
    )
    repeats: int = Field(
        20, gt=0, le=10_000, description="Warnings of one name written per repeats_window; further ones are counted."
    )
    repeats_window: Seconds = Field(10.0, description="Seconds; 2 lines a second of each kind are enough to see it.")


class HttpSettings(Group):
    """The public port."""

    host: ListenHost = Field(
        "127.0.0.1",
        description="Loopback, so that nothing is exposed by accident; pods set `*`: every address, IPv4 and IPv6.",
    )
    port: Port = Field(8000, description="The public port; one per process, so containers all use the same.")
    max_body_bytes: int = Field(
        65_536,
        ge=1,
        le=10_485_760,
        description="64 KiB: the largest order (50 lines) is under 8 KiB; more is refused with 413. At most 10 MiB: "
        "a body is held in memory, as often as there are requests.",
    )
    max_concurrent_requests: int = Field(
        200,
        ge=1,
        le=10_000,
        description="What one process holds at once before it answers 503: 20 × its database connections. "
        "Beyond 10,000 it runs out of file descriptors first.",
        json_schema_extra=RELOADED,
    )
    default_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of them from which only critical routes are taken in: 40 places, 4 × its database "
        "connections, are theirs.",
        json_schema_extra=RELOADED,
    )
    sheddable_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of them from which sheddable routes (listings) are refused: 90 already wait for one of "
        "its 10 database connections.",
        json_schema_extra=RELOADED,
    )
    default_deadline: Timeout = Field(
        10.0,
        description="Seconds a request may take when its caller sends no deadline; above every call time-out.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        max_length=16,
        description="Networks of the proxies before us, such as 10.0.0.0/8: what they say in X-Forwarded-For of whom "
        "they were asked by is believed, and of nobody else. Without them everybody behind a proxy has one address.",
    )
    documentation_url: Url = Field(
        DOCUMENTATION_URL,
        description="Where docs/reference/errors.md is published: each error answer names its section there.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("sheddable_share", "≤", "default_share", "or what can be done without goes last"),
    )


type HostPattern = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
]
"""A name, or all below one where a dot comes first."""


class ManagementSettings(Group):
    """The management port: probes, metrics and who this is."""

    host: ListenHost = Field("127.0.0.1", description="Loopback; pods set `*`: whoever reaches the pod may read.")
    port: Port = Field(9000, description="Never routed from outside, so it is not the public one.")
    token: Annotated[SecretStr, Field(min_length=32, max_length=256)] | None = Field(
        None,
        description="What an operator shows to change something on this port; without one nothing can be changed. "
        "At least 32 characters: 128 random bits in hex, which nobody guesses.",
        json_schema_extra=RELOADED,
    )
    hosts: tuple[HostPattern, ...] = Field(
        (),
        max_length=16,
        description="Names in Host that are answered besides addresses, names without a dot, the machine's own name "
        "and those below .svc, .cluster.local, .internal and .localhost; .example.com is every name below it. A web "
        "page could read this port under any other name.",
        json_schema_extra=RELOADED,
    )


class ShutdownSettings(Group):
    readiness_delay: float = Field(
        0.0,
        ge=0,
        le=60,
        description="Seconds between failing readiness and closing; 5 in a cluster, where routing lags.",
    )
    drain_timeout: float = Field(
        20.0,
        gt=0,
        le=540,
        description="Seconds for requests and jobs to finish; then handed back. Two default deadlines.",
    )
    grace_period: float = Field(
        40.0,
        gt=0,
        le=600,
        description="Seconds from SIGTERM to SIGKILL that whoever runs the process grants. The chart adds them up, and "
        "makes the pod's terminationGracePeriodSeconds of them.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        # Twice chassis.app.worker.stages.GRACE_SECONDS, to hand jobs back and then to close the management port, and
        # EXPORT_TIMEOUT of chassis.telemetry.export for the last spans.
        Rule("readiness_delay + drain_timeout + 12", "≤", "grace_period", "or the process is killed before it is done"),
    )

    @property
    def limit(self) -> float:
        """Seconds from SIGTERM after which a process that still runs ends itself, with exit code 1."""
        return self.readiness_delay + self.drain_timeout + 12


type PrincipalName = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
type Scope = Annotated[str, Field(max_length=63, pattern=r"^[a-z][a-z-]*:[a-z][a-z-]*$")]
"""What one may do, as `orders:write`. Each service has its own."""


class AuthSettings(Group):
    """Who may call: clients, whose keys are in the database, and services, which sign tokens."""

    peppers: tuple[Annotated[SecretStr, Field(min_length=32, max_length=256)], ...] = Field(
        (),
        max_length=5,
        description="JSON list of the secrets that keys are hashed under, the newest first; all are valid, so that "
        "one can be replaced without a gap. At least 32 characters: 128 random bits in hex.",
        json_schema_extra=RELOADED,
    )
    key_refresh: Seconds = Field(
        2.0,
        description="Seconds between looks at the keys in the database: for so long a revoked one still works, and a "
        "new one does not yet. A thousand keys cost 3 ms.",
        json_schema_extra=RELOADED,
    )
    key_grace: Period = Field(
        300.0,
        description="Seconds that the keys last seen go on when the database is gone; then nobody can say whose a key "
        "is, and the answer is 503. Five minutes: a failover takes one.",
        json_schema_extra=RELOADED,
    )
    service_secrets: dict[PrincipalName, Annotated[tuple[ServiceSecret, ...], Field(min_length=1, max_length=5)]] = (
        Field(
            default_factory=dict,
            max_length=100,
            description="JSON object: service that calls → the secrets that it may sign its tokens with; several while "
            "one is replaced.",
            json_schema_extra=RELOADED,
        )
    )
    service_scopes: dict[PrincipalName, Annotated[tuple[Scope, ...], Field(min_length=1, max_length=20)]] = Field(
        default_factory=dict,
        max_length=100,
        description="Service that calls → what it may do here.",
        json_schema_extra=RELOADED,
    )

    rules: ClassVar[tuple[Rule, ...]] = (Rule("key_refresh", "<", "key_grace", "or no key works between two looks"),)

    @model_validator(mode="after")
    def _callers_have_scopes(self) -> Self:
        without = sorted(set(self.service_secrets) - set(self.service_scopes))
        if without:
            raise ValueError(f"service_secrets names services that service_scopes does not have: {', '.join(without)}")
        return self


class TelemetrySettings(Group):
    otlp_endpoint: Url | None = Field(
        None, description="Base URL of an OTLP/HTTP collector; none: nothing is exported."
    )
    sample_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of new traces recorded; a caller's decision goes first. None: 0.1 in prod, elsewhere all.",
    )


MAX_RATE = 10_000
MAX_BURST = 1_000_000
type Rate = Annotated[float, Field(ge=0.001, le=MAX_RATE)]
"""Units a second. With the least rate the largest burst is back after 1e15 µs, a number that Redis' Lua has exactly."""
type Burst = Annotated[int, Field(ge=1, le=MAX_BURST)]

type TierName = Annotated[str, Field(max_length=32, pattern=r"^[a-z][a-z0-9_-]*$")]


class LimitSettings(Group):
    rate_per_second: Rate = Field(
        10.0,
        description="Sustained cost per principal and second; at 10,000, whole microseconds per unit are 1 % off.",
        json_schema_extra=RELOADED,
    )
    burst: Burst = Field(
        50,
        description="Cost a rested principal may spend at once: five seconds' worth. A million is no limit any more.",
        json_schema_extra=RELOADED,
    )
    dark_launch: bool = Field(
        False,
        description="Decide and count, and refuse nobody: to see whom a new limit would hit.",
        json_schema_extra=RELOADED,
    )


class UnauthenticatedSettings(LimitSettings):
    """Requests whose credentials are missing or wrong, per address they come from."""

    rate_per_second: Rate = Field(
        1.0,
        description="Per address and second: a client with a wrong key is told so, and somebody who guesses is slow.",
        json_schema_extra=RELOADED,
    )
    burst: Burst = Field(
        30,
        description="At once: an office behind one address that has just been given a wrong key.",
        json_schema_extra=RELOADED,
    )


class BadCredentialsSettings(LimitSettings):
    """The same, per account that was claimed: whoever guesses from many addresses."""

    rate_per_second: Rate = Field(
        1.0,
        description="Wrong credentials per claimed account and second, from all addresses together.",
        json_schema_extra=RELOADED,
    )
    burst: Burst = Field(
        60,
        description="At once: a fleet whose secret was rotated a minute too early. Right credentials always pass.",
        json_schema_extra=RELOADED,
    )


class RateLimitSettings(LimitSettings):
    """The limit of an authenticated principal, and how limits are decided."""

    unauthenticated: UnauthenticatedSettings = UnauthenticatedSettings()
    bad_credentials: BadCredentialsSettings = BadCredentialsSettings()
    tiers: dict[TierName, Annotated[float, Field(ge=0.001, le=1000)]] = Field(
        default_factory=dict,
        max_length=16,
        description="Tier → factor on rate_per_second and burst; `standard` has 1. At most 16: a label of metrics.",
        json_schema_extra=RELOADED,
    )
    tier_of: dict[PrincipalName, TierName] = Field(
        default_factory=dict,
        max_length=1000,
        description="Principal → its tier; who is not named here is `standard`. As many as there may be keys.",
        json_schema_extra=RELOADED,
    )
    replicas: int = Field(
        1,
        ge=1,
        le=1000,
        description="Processes that share a limit: the local limiter allows limit ÷ replicas.",
        json_schema_extra=RELOADED,
    )
    redis_pause: Timeout = Field(
        1.0,
        description="Seconds without asking Redis after it failed; then one request tries, at redis.timeout.",
        json_schema_extra=RELOADED,
    )
    local_keys: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Principals the local limiter remembers, about 2 MB; the longest away goes first.",
    )

    @model_validator(mode="after")
    def _tiers_exist(self) -> Self:
        unknown = sorted(set(self.tier_of.values()) - set(self.tiers) - {"standard"})
        if unknown:
            raise ValueError(f"tier_of names tiers that tiers does not have: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _tiers_keep_the_bounds(self) -> Self:
        for tier, factor in self.tiers.items():
            if self.rate_per_second * factor > MAX_RATE or self.burst * factor > MAX_BURST:
                raise ValueError(f"tier {tier} is above {MAX_RATE:,} a second or {MAX_BURST:,} at once")
        return self


class ReloadSettings(Group):
    """Mounted files are looked at again while the process runs."""

    interval: Timeout = Field(
        2.0,
        description="Seconds between looks at the mounted files, half a dozen small reads. The kubelet itself takes "
        "up to a minute to write them.",
    )
