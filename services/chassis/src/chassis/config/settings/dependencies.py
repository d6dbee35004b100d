"""Settings of calls to dependencies: retries, circuit breaker, bulkhead, and the addresses that may be called."""

from ipaddress import IPv4Network, IPv6Network
from typing import ClassVar

from pydantic import Field

from chassis.config.settings.model import RELOADED, Group, Port, Rule, Seconds, Secret, ServiceSecret, Timeout, Url


class RetrySettings(Group):
    max_attempts: int = Field(
        3, ge=1, le=10, description="Attempts, including the first one. More attempts only prolong an outage."
    )
    base_delay: Timeout = Field(
        0.1,
        description="Seconds. The wait before retry n = 0, 1, … is random between 0 and min(max_delay, base_delay·2ⁿ).",
    )
    max_delay: Timeout = Field(2.0, description="Seconds; the longest wait before a retry: as long as an attempt.")
    total_timeout: Timeout = Field(
        7.0,
        description="Seconds for all attempts and waits: 3 × 2 s and 1 s for the waits; below the default deadline.",
    )
    budget_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Retries that each call adds to the budget of retries: 0.1 limits a retry storm to 1.1 × the load.",
    )
    budget_floor: float = Field(
        10.0,
        ge=0,
        le=1000,
        description="Retries that a full budget holds without any calls, so that a quiet service may retry. A retry "
        "storm can spend these retries only once.",
    )
    budget_refill_seconds: Seconds = Field(
        60.0, description="Seconds in which an empty budget refills to budget_floor without calls."
    )

    rules: ClassVar[tuple[Rule, ...]] = (Rule("base_delay", "≤", "max_delay", "or the cap bounds every wait"),)


class BreakerSettings(Group):
    """The circuit breaker of a dependency. The defaults suit a dependency whose answer an order waits for.
    `docs/patterns/circuit_breaker.md` has other presets.
    """

    failure_rate: float = Field(
        0.5, gt=0, le=1, description="Share of failed calls in the window that opens the breaker."
    )
    slow_call_rate: float = Field(
        0.8, gt=0, le=1, description="Share of slow calls in the window that opens the breaker."
    )
    slow_call_duration: Timeout = Field(
        1.0, description="Seconds from which a call counts as slow: half of attempt_timeout."
    )
    minimum_calls: int = Field(
        5, ge=1, le=10_000, description="Calls in the window below which the breaker does not open."
    )
    window_size: int = Field(
        20, ge=1, le=10_000, description="Calls in the window. A busy process makes 20 calls in a few seconds."
    )
    window_seconds: Seconds = Field(60.0, description="Seconds after which a call leaves the window.")
    open_seconds: Seconds = Field(
        15.0,
        description="Seconds for which the breaker stays open before it lets trial calls through. Most restarts of a "
        "dependency take less time. The time doubles after each failed trial.",
    )
    max_open_seconds: Seconds = Field(60.0, description="Seconds; limit of the doubling of open_seconds.")
    open_jitter: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share by which open_seconds varies at random, so that replicas do not send their trial calls "
        "together.",
    )
    half_open_calls: int = Field(
        1,
        ge=1,
        le=100,
        description="Trial calls that a half-open breaker admits. The breaker closes when all of them have succeeded.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("minimum_calls", "≤", "window_size", "or the breaker never opens"),
        Rule("open_seconds", "≤", "max_open_seconds", "or the limit is below the value that it limits"),
    )


class DependencySettings(Group):
    """One HTTP dependency: its address, and the limits of a call to it."""

    base_url: Url = Field(description="Scheme, host and port. The client adds the path.")
    connect_timeout: Timeout = Field(
        1.0, description="Seconds to get a connection, including the wait for a free connection in the pool."
    )
    attempt_timeout: Timeout = Field(2.0, description="Seconds for one attempt, from sending to the last byte.")
    max_connections: int = Field(20, ge=1, le=1000, description="Connections of one process to this dependency.")
    max_in_flight: int = Field(
        16, ge=1, le=1000, description="Bulkhead: calls in flight at once; at most max_connections."
    )
    max_response_bytes: int = Field(
        1_048_576,
        ge=1,
        le=104_857_600,
        description="Bytes of an answer; a larger answer is an error. 1 MiB is a thousand times the largest expected "
        "answer.",
    )
    retry: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("connect_timeout", "≤", "attempt_timeout", "or it never takes effect"),
        Rule("attempt_timeout", "≤", "retry.total_timeout", "or it never takes effect"),
        Rule("breaker.slow_call_duration", "<", "attempt_timeout", "or no call is ever slow"),
        Rule("max_in_flight", "≤", "max_connections", "or calls wait for a connection of the pool"),
    )


class ExternalDependencySettings(DependencySettings):
    """A dependency that another company operates."""

    api_key: Secret = Field(description="API key for the dependency, sent as `Authorization: Bearer`.")


class ServiceDependencySettings(DependencySettings):
    """A dependency that is another service of this platform."""

    token_secret: ServiceSecret = Field(
        description="Secret that signs this service's tokens for the dependency. The dependency has the same secret "
        "under this service's name in `auth.service_secrets`.",
        json_schema_extra=RELOADED,
    )


class EgressSettings(Group):
    """Limits on requests to addresses that a customer chose, such as webhook endpoints."""

    allow_insecure: bool = Field(False, description="Whether plain http is allowed, for development and tests.")
    allowed_ports: tuple[Port, ...] = Field(
        (443,),
        min_length=1,
        max_length=16,
        description="Ports that may be called. More ports would let a customer scan for open ports.",
    )
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        max_length=16,
        description="Networks that are allowed although they are not public, such as 127.0.0.0/8 in development.",
    )
    refused_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        max_length=64,
        description="Networks that are always refused, such as the platform's public addresses and the network's NAT64 "
        "prefix.",
    )
