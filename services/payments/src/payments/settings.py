"""The settings of the payments service."""

from typing import ClassVar

from chassis.config.settings import ExternalDependencySettings, Rule, ServiceSettings, SweepSettings


class PaymentsSettings(ServiceSettings):
    service_name: ClassVar[str] = "payments"
    scopes: ClassVar[frozenset[str]] = frozenset({"payments:read", "payments:write"})

    provider: ExternalDependencySettings
    sweeps: SweepSettings = SweepSettings()

    rules: ClassVar[tuple[Rule, ...]] = (
        *ServiceSettings.rules,
        Rule("provider.attempt_timeout", "<", "http.default_deadline", "or a call outlives the deadline"),
        Rule("provider.retry.total_timeout", "<", "http.default_deadline", "or the retries outlive the deadline"),
    )
