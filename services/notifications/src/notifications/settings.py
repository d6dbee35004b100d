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
    host: Host = Field("127.0.0.1", description="The mail server.")
    port: Port = Field(25, description="The mail server's port; 25 is for SMTP between servers.")
    sender: EmailAddress = Field(
        "orders@holdfast.example",
        description="The From address. Every Message-ID ends with the domain of this address. SMTP's limit for an "
        "address is 254 characters.",
    )
    timeout: Annotated[float, Field(gt=0, le=6)] = Field(
        5.0,
        description="Seconds for one step of a conversation with the mail server. A mail takes four steps, and its "
        "job has 25 seconds.",
    )


class WebhookSettings(Group):
    """Customers' webhook endpoints, and the limits of deliveries to them."""

    egress: EgressSettings = EgressSettings()
    schedule: tuple[Period, ...] = Field(
        (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
        min_length=1,
        max_length=20,
        description="Seconds between attempts, as Standard Webhooks advises: a delivery is dead after 10 attempts in "
        "3.2 days.",
    )
    jitter: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Each wait varies by this share, so that deliveries do not all arrive at once when an outage ends.",
    )
    attempt_timeout: Annotated[float, Field(gt=0, le=20)] = Field(
        15.0,
        description="Seconds until the answer's status line must arrive. Standard Webhooks advises 15 to 30. The job "
        "that delivers the webhook has 30 seconds.",
    )
    connect_timeout: Timeout = Field(5.0, description="Seconds to resolve the name, connect and agree on TLS.")
    concurrency: int = Field(
        32,
        ge=2,
        le=100,
        description="Attempts that one worker makes at once. While an attempt waits for its answer, it holds no "
        "database connection.",
    )
    suspect_concurrency: int = Field(
        8,
        ge=1,
        le=99,
        description="Attempts that one worker makes at once at suspect endpoints, whose last attempt failed or was "
        "slow. The default is a quarter of `concurrency`, so that broken endpoints do not delay the deliveries to "
        "other endpoints.",
    )
    slow_after: Timeout = Field(
        3.0,
        description="Seconds after which an answer counts as slow, so that its endpoint is suspect even if it answers "
        "2xx. A customer's server usually answers in a tenth of this time.",
    )
    secret_overlap: Period = Field(
        86_400.0,
        description="Seconds for which webhooks are signed with a replaced secret, too. A client has this time to "
        "change to the new secret.",
    )
    disable_after: Period = Field(
        432_000.0,
        description="Seconds for which every attempt at an endpoint must have failed before it is disabled and its "
        "client gets a mail. In five days one delivery makes all its attempts, and the next delivery makes most of "
        "them.",
    )
    max_endpoints: int = Field(
        10, ge=1, le=100, description="The most endpoints of one client. Each event causes a delivery to each endpoint."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("connect_timeout", "≤", "attempt_timeout", "or it never takes effect"),
        Rule("suspect_concurrency", "<", "concurrency", "or broken endpoints may take every slot"),
    )


class MailJobSettings(JobSettings):
    """The settings of the job runner that sends mails. A second job runner, with separate slots, runs the jobs that
    deliver webhooks.
    """

    concurrency: int = Field(
        7,
        ge=1,
        le=100,
        description="Mails that one worker sends at once: one fewer than in other services, since the job runner of "
        "deliveries needs a connection, too.",
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
        # Besides the mails, the consumer, the scheduler, and the job runner of deliveries need one connection each. A
        # delivery uses a connection for some milliseconds before and after its attempt, but not during the attempt.
        Rule(
            "jobs.concurrency + 3",
            "≤",
            "database.pool_size + database.max_overflow",
            "or mails and deliveries fail because no connection is free",
        ),
    )
