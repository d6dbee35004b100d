"""The settings of the payments service."""

from typing import ClassVar

from chassis.config.settings import (
    RELOADED,
    BacklogSettings,
    Causes,
    ExternalDependencySettings,
    Rule,
    Seconds,
    ServiceSettings,
    SweepSettings,
)
from pydantic import Field


class PaymentBacklogSettings(BacklogSettings):
    """The limit of open payments. This limit is high enough for the payment of every order that the orders service
    accepts.
    """

    promise: Seconds = Field(
        60.0,
        description="Seconds within which a payment is captured or fails: twice the promise of orders. So the orders "
        "service refuses orders before this service refuses their payments.",
        json_schema_extra=RELOADED,
    )


class PaymentsSettings(ServiceSettings):
    service_name: ClassVar[str] = "payments"
    scopes: ClassVar[frozenset[str]] = frozenset({"payments:read", "payments:write"})
    # A request of the orders service takes one unit, and causes one call to the provider: a charge, or a refund.
    causes: ClassVar[tuple[Causes, ...]] = (Causes("provider", calls=1, units=1),)

    provider: ExternalDependencySettings
    backlog: PaymentBacklogSettings = PaymentBacklogSettings()
    sweeps: SweepSettings = SweepSettings()

    rules: ClassVar[tuple[Rule, ...]] = (
        *ServiceSettings.rules,
        Rule("provider.attempt_timeout", "<", "http.default_deadline", "or a call outlives the deadline"),
        Rule("provider.retry.total_timeout", "<", "http.default_deadline", "or the retries outlive the deadline"),
    )
