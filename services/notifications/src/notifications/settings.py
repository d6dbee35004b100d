"""The settings of the notifications service."""

from typing import Annotated, ClassVar

from chassis.config.settings import (
    EgressSettings,
    Group,
    Host,
    IdempotencySettings,
    JobSettings,
    Period,
    Port,
    Rule,
    ServiceSettings,
    SweepSettings,
    Timeout,
)
from chassis.errors.fields import EmailAddress
from pydantic import Field


class SmtpSettings(Group):
    host: Host = Field("127.0.0.1", description="Where the mail server is.")
    port: Port = Field(25, description="SMTP between servers.")
    sender: EmailAddress = Field(
        "orders@holdfast.example",
        description="The From address; its domain ends every Message-ID. 254 characters is SMTP's limit.",
    )
    timeout: Annotated[float, Field(gt=0, le=7)] = Field(
        5.0, description="Seconds for one step with the mail server; a mail has four, and its job 30 s."
    )


class WebhookSettings(Group):
    """Customers' webhook endpoints, and how deliveries to them are bounded."""

    egress: EgressSettings = EgressSettings()
    schedule: tuple[Period, ...] = Field(
        (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
        min_length=1,
        max_length=20,
        description="Seconds between attempts (Standard Webhooks' advice): 10 attempts in 3.2 days, then it is dead.",
    )
    jitter: float = Field(
        0.2, ge=0, lt=1, description="Share by which each wait varies, so that an outage's end is no stampede."
    )
    attempt_timeout: Annotated[float, Field(gt=0, le=20)] = Field(
        15.0, description="Seconds until the answer's status line; Standard Webhooks advises 15 to 30. A job has 30."
    )
    connect_timeout: Timeout = Field(5.0, description="Seconds to resolve, connect and agree on TLS.")
    concurrency: int = Field(
        32, ge=2, le=100, description="Attempts one worker makes at once; each waits, and holds no database connection."
    )
    suspect_concurrency: int = Field(
        8,
        ge=1,
        le=99,
        description="How many of them may be at endpoints whose latest attempt failed or took long: a quarter, so that "
        "dead customers delay nobody else.",
    )
    slow_after: Timeout = Field(
        3.0, description="Seconds after which even a 2xx makes an endpoint suspect: ten times what a customer needs."
    )
    secret_overlap: Period = Field(
        86_400.0, description="Seconds that a replaced secret signs along: a day to bring the new one into service."
    )
    disable_after: Period = Field(
        432_000.0,
        description="Seconds for which every attempt at an endpoint has failed before it is disabled and its client "
        "told: five days, in which one delivery has had all its attempts and the next most of them.",
    )
    max_endpoints: int = Field(
        10, ge=1, le=100, description="Endpoints of one client: each makes a delivery of every event."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("connect_timeout", "≤", "attempt_timeout", "or it never takes effect"),
        Rule("suspect_concurrency", "<", "concurrency", "or dead customers may take every place"),
    )


class MailJobSettings(JobSettings):
    """The jobs of the worker's queue, which are mails; deliveries have places of their own."""

    concurrency: int = Field(
        7,
        ge=1,
        le=100,
        description="Mails one worker sends at once: one fewer than elsewhere, for the connection of the second job "
        "runner, which delivers webhooks.",
    )


class NotificationsSettings(ServiceSettings):
    service_name: ClassVar[str] = "notifications"
    scopes: ClassVar[frozenset[str]] = frozenset({"mails:read", "webhooks:manage"})

    smtp: SmtpSettings = SmtpSettings()
    webhooks: WebhookSettings = WebhookSettings()
    jobs: MailJobSettings = MailJobSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    sweeps: SweepSettings = SweepSettings()

    rules: ClassVar[tuple[Rule, ...]] = (
        *ServiceSettings.rules,
        # Consumer and scheduler, and of the second runner what claims deliveries and commits their ends. A delivery has
        # one for some milliseconds before its attempt and after it, and none meanwhile.
        Rule(
            "jobs.concurrency + 3",
            "≤",
            "database.pool_size + database.max_overflow",
            "or mails and deliveries wait for a connection and fail for want of one",
        ),
    )
