"""The settings of the orders service."""

from typing import ClassVar

from chassis.settings import DependencySettings, IdempotencySettings, Seconds, ServiceSettings, SweepSettings
from pydantic import Field


class OrdersSettings(ServiceSettings):
    service_name: ClassVar[str] = "orders"

    payments: DependencySettings
    idempotency: IdempotencySettings = IdempotencySettings()
    sweeps: SweepSettings = SweepSettings()
    pending_limit: Seconds = Field(
        900.0,
        description="Seconds an order may wait for its payment; longer than a provider's usual outage.",
    )
