"""Settings of a running process: its log, its two ports, its end, telemetry, and the reload of settings."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr

from chassis.config.settings.model import (
    RELOADED,
    Group,
    ListenHost,
    Port,
    Rule,
    Seconds,
    Timeout,
    Url,
)
from chassis.errors import DOCUMENTATION_URL

type Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class LogSettings(Group):
    level: Level = Field(
        "INFO",
        description="Lowest level that is written. Production uses INFO.",
        json_schema_extra=RELOADED,
    )
    format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="`console` for people, `json` for machines. `auto` is `console` on a terminal, and `json` "
        "otherwise.",
    )
    debug_key: Annotated[SecretStr, Field(min_length=32, max_length=4096)] | None = Field(
        None, description="Key of the signed header that turns DEBUG on for one request. None disables that header."
    )
    queue_bytes: int = Field(
        4_194_304,
        ge=65_536,
        le=268_435_456,
        description="Bytes of lines that may wait for stdout: 4 MiB, or 10 s at 800 lines a second. Further lines are "
        "dropped.",
    )
    repeats: int = Field(
        20,
        gt=0,
        le=10_000,
        description="Warnings of one name that are written per repeats_window. Further warnings are only counted.",
    )
    repeats_window: Seconds = Field(
        10.0, description="Seconds of the window of `repeats`. 20 lines in 10 s are enough to notice a problem."
    )


class HttpSettings(Group):
    """The public port."""

    host: ListenHost = Field(
        "127.0.0.1",
        description="Listen address. Loopback exposes nothing by accident; pods set `*`, every IPv4 and IPv6 address.",
    )
    port: Port = Field(
        8000, description="The public port. Each container has one process, so all containers use the same port."
    )
    max_body_bytes: int = Field(
        65_536,
        ge=1,
        le=10_485_760,
        description="Bytes of a request body; a larger body is refused with 413. The largest order (50 lines) is "
        "under 8 KiB. At most 10 MiB, because each request holds its body in memory.",
    )
    max_concurrent_requests: int = Field(
        200,
        ge=1,
        le=10_000,
        description="Requests that one process handles at once; further requests get a 503. The default is 20 times "
        "the database connections of a process. Above 10,000 a process runs out of file descriptors first.",
        json_schema_extra=RELOADED,
    )
    default_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of max_concurrent_requests above which only critical routes are admitted. By default 40 "
        "slots, four times the database connections, are reserved for critical routes.",
        json_schema_extra=RELOADED,
    )
    sheddable_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of max_concurrent_requests above which sheddable routes (listings) are refused. By default "
        "90 requests then wait for one of 10 database connections.",
        json_schema_extra=RELOADED,
    )
    default_deadline: Timeout = Field(
        10.0,
        description="Seconds that a request may take when its caller sends no deadline. The default is above every "
        "time-out of a call to a dependency.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        max_length=16,
        description="Networks of the proxies in front of this service, such as 10.0.0.0/8. X-Forwarded-For is read "
        "only in requests from these networks. If a proxy is missing here, all clients behind this proxy share the "
        "proxy's address.",
    )
    documentation_url: Url = Field(
        DOCUMENTATION_URL,
        description="Address where docs/reference/errors.md is published. Each error answer links to the section "
        "of its error code.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("sheddable_share", "≤", "default_share", "or sheddable requests are refused last"),
    )


type HostPattern = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
]
"""A host name. `.example.com`, with a leading dot, means every name below `example.com`."""


class ManagementSettings(Group):
    """The management port: probes, metrics, information on the process, and changes by operators."""

    host: ListenHost = Field(
        "127.0.0.1", description="Listen address. Pods set `*`, so every client that reaches the pod may read."
    )
    port: Port = Field(
        9000,
        description="The management port. This port differs from the public port, so that no traffic from outside is "
        "routed to this port.",
    )
    token: Annotated[SecretStr, Field(min_length=32, max_length=256)] | None = Field(
        None,
        description="Bearer token of operators for changes on this port. None disables all changes. "
        "At least 32 characters: 128 random bits in hex.",
        json_schema_extra=RELOADED,
    )
    hosts: tuple[HostPattern, ...] = Field(
        (),
        max_length=16,
        description="Further names that are accepted in Host; .example.com accepts every name below it. Addresses, "
        "names without a dot, the machine's own name, and names below .svc, .cluster.local, .internal and .localhost "
        "are always accepted. Any other name is refused, because a web page could read this port under a name that its "
        "owner points at the port (DNS rebinding).",
        json_schema_extra=RELOADED,
    )


class ShutdownSettings(Group):
    readiness_delay: float = Field(
        0.0,
        ge=0,
        le=60,
        description="Seconds between the first failing readiness probe and the closing of the port. The chart sets 5, "
        "because in a cluster it takes time until no more requests are routed to the pod.",
    )
    drain_timeout: float = Field(
        20.0,
        gt=0,
        le=540,
        description="Seconds that requests and jobs have to finish: twice the default deadline. After this time the "
        "remaining requests are cut off, and the remaining jobs are handed back to the queue.",
    )
    grace_period: float = Field(
        40.0,
        gt=0,
        le=600,
        description="Seconds from SIGTERM to SIGKILL. The chart computes this value, and sets the pod's "
        "terminationGracePeriodSeconds to the same value.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        # The 12 s are 5 s to hand jobs back (GRACE_SECONDS of chassis.app.worker.stages), 5 s to close the management
        # port (GRACE_SECONDS again), and 2 s for the last spans (EXPORT_TIMEOUT of chassis.telemetry.export).
        Rule(
            "readiness_delay + drain_timeout + 12",
            "≤",
            "grace_period",
            "or the process is killed before it has stopped",
        ),
    )

    @property
    def limit(self) -> float:
        """Seconds after SIGTERM at which a process that is still running ends itself, with exit code 1."""
        return self.readiness_delay + self.drain_timeout + 12


class TelemetrySettings(Group):
    otlp_endpoint: Url | None = Field(None, description="Base URL of an OTLP/HTTP collector. None disables the export.")
    sample_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of new traces that is recorded. A trace that a caller sends is recorded if the caller "
        "records it. None means 0.1 in prod and 1 elsewhere.",
    )


class ReloadSettings(Group):
    """How often a running process checks its mounted configuration files for changes."""

    interval: Timeout = Field(
        2.0,
        description="Seconds between checks of the mounted files. A check is half a dozen small reads. The kubelet "
        "itself takes up to a minute to update the files.",
    )
