"""Settings of calls to others: retries, breaker, bulkhead, and where requests may go at all."""

from ipaddress import IPv4Network, IPv6Network
from typing import ClassVar

from pydantic import Field

from chassis.config.settings.model import RELOADED, Group, Port, Rule, Seconds, Secret, ServiceSecret, Timeout, Url


class RetrySettings(Group):
    max_attempts: int = Field(
        3, ge=1, le=10, description="Attempts in all, the first one included; more only prolongs an outage."
    )
    base_delay: Timeout = Field(0.1, description="Seconds; wait n = 0, 1, … is U(0, min(max_delay, base_delay·2ⁿ)).")
    max_delay: Timeout = Field(2.0, description="Seconds; cap of one wait: as long as an attempt.")
    total_timeout: Timeout = Field(
        7.0, description="Seconds for all attempts and waits: 3 × 2 s and the waits, below the default deadline."
    )
    budget_ratio: float = Field(
        0.1, ge=0, le=1, description="Retries earned per call: 10 % keeps a storm at 1.1 × load."
    )
    budget_floor: float = Field(
        10.0,
        ge=0,
        le=1000,
        description="Retries in hand at rest, so that a quiet service may retry; a storm spends them once.",
    )
    budget_refill_seconds: Seconds = Field(60.0, description="Seconds in which a spent floor comes back by itself.")

    rules: ClassVar[tuple[Rule, ...]] = (Rule("base_delay", "≤", "max_delay", "or every wait is the cap"),)


class BreakerSettings(Group):
    """For what an order waits for, so it is tried soon; `docs/patterns/circuit_breaker.md` has presets for others."""

    failure_rate: float = Field(0.5, gt=0, le=1, description="Share of failed calls in the window that opens it.")
    slow_call_rate: float = Field(0.8, gt=0, le=1, description="Share of slow calls in the window that opens it.")
    slow_call_duration: Timeout = Field(
        1.0, description="Seconds from which a call is slow: half the attempt time-out, or it would never show."
    )
    minimum_calls: int = Field(5, ge=1, le=10_000, description="Calls in the window before rates mean anything.")
    window_size: int = Field(
        20, ge=1, le=10_000, description="Calls the window holds: the last seconds of a busy process."
    )
    window_seconds: Seconds = Field(60.0, description="Seconds after which a call leaves the window.")
    open_seconds: Seconds = Field(
        15.0, description="Seconds open before it lets calls try: most restarts are over; doubled each time it fails."
    )
    max_open_seconds: Seconds = Field(60.0, description="Seconds; cap of that doubling.")
    open_jitter: float = Field(
        0.2, ge=0, lt=1, description="Share by which open time varies, so that replicas do not try together."
    )
    half_open_calls: int = Field(
        1,
        ge=1,
        le=100,
        description="Calls that may try while half-open, in flight included; as many successes close it.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("minimum_calls", "≤", "window_size", "or it never opens"),
        Rule("open_seconds", "≤", "max_open_seconds", "or the cap is below what is capped"),
    )


class DependencySettings(Group):
    """One HTTP dependency: where it is, and how a call to it is bounded."""

    base_url: Url = Field(description="Scheme, host and port; paths are the client's.")
    connect_timeout: Timeout = Field(1.0, description="Seconds to get a connection, the pool's queue included.")
    attempt_timeout: Timeout = Field(2.0, description="Seconds for one attempt, from sending to the last byte.")
    max_connections: int = Field(20, ge=1, le=1000, description="Connections of one process to this dependency.")
    max_in_flight: int = Field(
        16, ge=1, le=1000, description="Bulkhead: calls under way at once, below max_connections."
    )
    max_response_bytes: int = Field(
        1_048_576, ge=1, le=104_857_600, description="1 MiB: a thousand times the largest answer we expect."
    )
    retry: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("connect_timeout", "≤", "attempt_timeout", "or it never takes effect"),
        Rule("attempt_timeout", "≤", "retry.total_timeout", "or it never takes effect"),
        Rule("breaker.slow_call_duration", "<", "attempt_timeout", "or no call is ever slow"),
        Rule("max_in_flight", "≤", "max_connections", "or calls wait in the pool's queue"),
    )


class ExternalDependencySettings(DependencySettings):
    """Somebody else's service."""

    api_key: Secret = Field(description="Our key there, sent as `Authorization: Bearer`.")


class ServiceDependencySettings(DependencySettings):
    """A service of this platform."""

    token_secret: ServiceSecret = Field(
        description="What we sign our tokens for it with; it has the same under our name in `auth.service_secrets`.",
        json_schema_extra=RELOADED,
    )


class EgressSettings(Group):
    """Where requests may go whose address a customer chose."""

    allow_insecure: bool = Field(False, description="Also http: for development and tests.")
    allowed_ports: tuple[Port, ...] = Field(
        (443,),
        min_length=1,
        max_length=16,
        description="Others would let a customer look for what listens; a long list would be no limit.",
    )
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        max_length=16,
        description="Networks that are allowed though they are not public, such as 127.0.0.0/8 in development.",
    )
    refused_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        max_length=64,
        description="Networks that are refused in any case: our own public addresses, our network's NAT64 prefix.",
    )
