"""The settings of the orders service."""

from typing import ClassVar

from chassis.settings import DependencySettings, ServiceSettings


class OrdersSettings(ServiceSettings):
    service_name: ClassVar[str] = "orders"

    payments: DependencySettings
