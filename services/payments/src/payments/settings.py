"""The settings of the payments service."""

from typing import ClassVar

from chassis.settings import DependencySettings, ServiceSettings, SweepSettings


class PaymentsSettings(ServiceSettings):
    service_name: ClassVar[str] = "payments"

    provider: DependencySettings
    sweeps: SweepSettings = SweepSettings()
