"""The settings of the orders service."""

from typing import ClassVar

from chassis.config.settings import (
    BacklogSettings,
    Causes,
    IdempotencySettings,
    Period,
    Rule,
    ServiceDependencySettings,
    ServiceSettings,
    SweepSettings,
)
from pydantic import Field

PLACE_ORDER_COST = 5
"""The units that the placing of an order takes from the caller's rate limit. A new order writes ten rows and starts a
payment. A read takes 1 unit, because it runs at most one query.
"""


class OrdersSettings(ServiceSettings):
    service_name: ClassVar[str] = "orders"
    scopes: ClassVar[frozenset[str]] = frozenset({"orders:read", "orders:write"})
    # An order causes one call that requests its payment. If the order is cancelled, a second call voids the payment.
    causes: ClassVar[tuple[Causes, ...]] = (Causes("payments", calls=2, units=PLACE_ORDER_COST),)

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
