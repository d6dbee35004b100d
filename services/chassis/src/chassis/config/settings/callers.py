"""Settings of callers: their keys, tokens and scopes, and the limits of their requests."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, SecretStr, model_validator

from chassis.config.settings.model import RELOADED, Group, Period, Rule, Seconds, ServiceSecret, Timeout

type PrincipalName = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
type Scope = Annotated[str, Field(max_length=63, pattern=r"^[a-z][a-z-]*:[a-z][a-z-]*$")]
"""A permission such as `orders:write`. Each service has its own scopes."""


class AuthSettings(Group):
    """The callers of a service. Clients send API keys, whose hashes are stored in the database. Other services of the
    platform send signed tokens.
    """

    peppers: tuple[Annotated[SecretStr, Field(min_length=32, max_length=256)], ...] = Field(
        (),
        max_length=5,
        description="JSON list of the secrets that API keys are hashed with, the newest first. All secrets of the list "
        "are valid, so that a secret can be replaced without a gap. At least 32 characters: 128 random bits in hex.",
        json_schema_extra=RELOADED,
    )
    key_refresh: Seconds = Field(
        2.0,
        description="Seconds between reads of the keys in the database. A new or revoked key takes effect after this "
        "time at the latest. A read of a thousand keys takes 3 ms.",
        json_schema_extra=RELOADED,
    )
    key_grace: Period = Field(
        300.0,
        description="Seconds that the keys of the last read stay valid while the database is down. After that each "
        "request with a key gets a 503. The default is five minutes; a failover of the database takes one minute.",
        json_schema_extra=RELOADED,
    )
    service_secrets: dict[PrincipalName, Annotated[tuple[ServiceSecret, ...], Field(min_length=1, max_length=5)]] = (
        Field(
            default_factory=dict,
            max_length=100,
            description="JSON object: name of a calling service → the secrets that it may sign its tokens with. A "
            "service has several secrets while one of them is being replaced.",
            json_schema_extra=RELOADED,
        )
    )
    service_scopes: dict[PrincipalName, Annotated[tuple[Scope, ...], Field(min_length=1, max_length=20)]] = Field(
        default_factory=dict,
        max_length=100,
        description="JSON object: name of a calling service → the scopes that it has here.",
        json_schema_extra=RELOADED,
    )

    rules: ClassVar[tuple[Rule, ...]] = (Rule("key_refresh", "<", "key_grace", "or no key works between two reads"),)

    @model_validator(mode="after")
    def _callers_have_scopes(self) -> Self:
        without = sorted(set(self.service_secrets) - set(self.service_scopes))
        if without:
            raise ValueError(f"service_secrets names services that service_scopes does not have: {', '.join(without)}")
        return self


MAX_RATE = 10_000
MAX_BURST = 1_000_000
type Rate = Annotated[float, Field(ge=0.001, le=MAX_RATE)]
"""Units per second. At the lowest rate the largest burst refills in 1e15 µs, which Redis' Lua can represent exactly."""
type Burst = Annotated[int, Field(ge=1, le=MAX_BURST)]

type TierName = Annotated[str, Field(max_length=32, pattern=r"^[a-z][a-z0-9_-]*$")]


class LimitSettings(Group):
    rate_per_second: Rate = Field(
        10.0,
        description="Units per second that a principal may spend continuously. At most 10,000: above this rate, "
        "rounding the time between two units to whole µs would be off by more than 1 %.",
        json_schema_extra=RELOADED,
    )
    burst: Burst = Field(
        50,
        description="Units that a principal may spend at once after a pause. The default is five seconds at "
        "rate_per_second.",
        json_schema_extra=RELOADED,
    )
    dark_launch: bool = Field(
        False,
        description="Count what the limit would refuse, but refuse no request: a trial run for a new limit.",
        json_schema_extra=RELOADED,
    )


class UnauthenticatedSettings(LimitSettings):
    """The limit of requests with missing or wrong credentials, per client address."""

    rate_per_second: Rate = Field(
        1.0,
        description="Requests per address and second. A client with a wrong key still gets its 401, but guessing keys "
        "is slow.",
        json_schema_extra=RELOADED,
    )
    burst: Burst = Field(
        30,
        description="Requests at once: enough for an office whose clients share one address and have a wrong key.",
        json_schema_extra=RELOADED,
    )


class BadCredentialsSettings(LimitSettings):
    """The limit of wrong credentials per claimed account, against guesses from many addresses."""

    rate_per_second: Rate = Field(
        1.0,
        description="Wrong credentials per claimed account and second, from all addresses together.",
        json_schema_extra=RELOADED,
    )
    burst: Burst = Field(
        60,
        description="Wrong credentials at once: enough for a fleet whose secret was rotated a minute too early. Valid "
        "credentials always pass.",
        json_schema_extra=RELOADED,
    )


class RateLimitSettings(LimitSettings):
    """The limit of an authenticated principal, and the settings that all limits share."""

    clients: int = Field(
        10,
        ge=0,
        le=1_000_000,
        description="Clients that may use their whole limit at the same time. The calls that they cause must fit into "
        "`edges`; a configuration in which they do not fit is refused.",
        json_schema_extra=RELOADED,
    )
    edges: dict[PrincipalName, Annotated[dict[PrincipalName, Rate], Field(max_length=100)]] = Field(
        default_factory=dict,
        max_length=100,
        description="Caller → dependency → calls per second: the dependency admits so many, and the caller sends no "
        "more. The common file has this setting, because both sides obey it. Without an entry, a caller may send as "
        "many calls as its own callers cause.",
        json_schema_extra=RELOADED,
    )
    unauthenticated: UnauthenticatedSettings = UnauthenticatedSettings()
    bad_credentials: BadCredentialsSettings = BadCredentialsSettings()
    tiers: dict[TierName, Annotated[float, Field(ge=0.001, le=1000)]] = Field(
        default_factory=dict,
        max_length=16,
        description="Tier → factor for rate_per_second and burst; `standard` has 1. At most 16 tiers, because the "
        "tier is a metric label.",
        json_schema_extra=RELOADED,
    )
    tier_of: dict[PrincipalName, TierName] = Field(
        default_factory=dict,
        max_length=1000,
        description="Principal → its tier. Any other principal has the tier `standard`. At most 1000 entries.",
        json_schema_extra=RELOADED,
    )
    replicas: int = Field(
        1,
        ge=1,
        le=1000,
        description="Processes that share a limit. While Redis is down, each process allows limit ÷ replicas.",
        json_schema_extra=RELOADED,
    )
    redis_pause: Timeout = Field(
        1.0,
        description="Seconds without a call to Redis after a call failed. Then one request tries Redis again, within "
        "redis.timeout.",
        json_schema_extra=RELOADED,
    )
    local_keys: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Principals that the local limiter remembers, in about 2 MB. The least recently seen principal is "
        "forgotten first.",
    )

    @model_validator(mode="after")
    def _tiers_exist(self) -> Self:
        unknown = sorted(set(self.tier_of.values()) - set(self.tiers) - {"standard"})
        if unknown:
            raise ValueError(f"tier_of names tiers that tiers does not have: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _tiers_are_within_bounds(self) -> Self:
        for tier, factor in self.tiers.items():
            if self.rate_per_second * factor > MAX_RATE or self.burst * factor > MAX_BURST:
                raise ValueError(f"tier {tier} is above {MAX_RATE:,} a second or {MAX_BURST:,} at once")
        return self
