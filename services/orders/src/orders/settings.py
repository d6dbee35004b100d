"""The settings of the orders service."""

from typing import ClassVar

from chassis.config.settings import (
    BacklogSettings,
    IdempotencySettings,
    Period,
    Rule,
    ServiceDependencySettings,
    ServiceSettings,
    SweepSettings,
)
from pydantic import Field


class OrdersSettings(ServiceSettings):
    service_name: ClassVar[str] = "orders"
    scopes: ClassVar[frozenset[str]] = frozenset({"orders:read", "orders:write"})

    payments: ServiceDependencySettings
    backlog: BacklogSettings = BacklogSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    sweeps: SweepSettings = SweepSettings()
    pending_limit: Period = Field(
        900.0,
        description="Seconds that an order may wait for its payment. The default is longer than a provider's usual "
        "outage.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        *ServiceSettings.rules,
        Rule("payments.attempt_timeout", "<", "http.default_deadline", "or a call outlives the deadline"),
        Rule("payments.retry.total_timeout", "<", "http.default_deadline", "or the retries outlive the deadline"),
        Rule("sweeps.every", "≤", "pending_limit", "or an order waits longer than its limit"),
    )
