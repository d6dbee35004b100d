"""The settings of the orders service."""

from datetime import date
from typing import ClassVar

from chassis.config.settings import (
    BacklogSettings,
    Causes,
    Flag,
    Flags,
    IdempotencySettings,
    Period,
    Rule,
    ServiceDependencySettings,
    ServiceSettings,
    SweepSettings,
    flag,
)
from pydantic import Field

PLACE_ORDER_COST = 5
"""The units that the placing of an order takes from the caller's rate limit. A new order writes ten rows and starts a
payment. A read takes 1 unit, because it runs at most one query.
"""

READ_PAYMENT_COST = 5
"""The units that reading an order's payment takes from the caller's rate limit. Such a read makes one call to the
payments service, a fifth of a call per unit. A new order makes two fifths of a call per unit (see `causes` in
`OrdersSettings`), so a limit that fits new orders also fits these reads.
"""


class OrdersFlags(Flags):
    """The feature flags of the orders service."""

    stored_payment_status: Flag = flag(
        "Answer `GET /v1/orders/{order_id}/payment` from the order, without a call to the payments service. Operators "
        "switch this flag on under load. Each answer is then marked as degraded.",
        owner="orders",
        until=date(2027, 11, 30),
    )


class OrdersSettings(ServiceSettings):
    service_name: ClassVar[str] = "orders"
    scopes: ClassVar[frozenset[str]] = frozenset({"orders:read", "orders:write"})
    # An order causes one call that requests its payment. If the order is cancelled, a second call cancels or refunds
    # the payment.
    causes: ClassVar[tuple[Causes, ...]] = (Causes("payments", calls=2, units=PLACE_ORDER_COST),)

    payments: ServiceDependencySettings
    backlog: BacklogSettings = BacklogSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    sweeps: SweepSettings = SweepSettings()
    flags: OrdersFlags = OrdersFlags()
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
