"""Every setting of the chassis, with its default, its unit, its limits and the reason for the number.

Each class is one group of settings: `database.pool_size` is the variable `HOLDFAST_DATABASE__POOL_SIZE`. A service
derives its own settings from `ServiceSettings`, and `chassis.config.load` fills them from the layers. The reference
page and `.env.example` are generated from these models.

Read `model` first (types, groups and rules), then `service`, which puts the groups together.
"""

from chassis.config.settings.callers import (
    AuthSettings,
    LimitSettings,
    PrincipalName,
    RateLimitSettings,
)
from chassis.config.settings.dependencies import (
    BreakerSettings,
    DependencySettings,
    EgressSettings,
    ExternalDependencySettings,
    RetrySettings,
    ServiceDependencySettings,
)
from chassis.config.settings.edges import BURST_SECONDS, CallSum, Causes, call_sum
from chassis.config.settings.flags import Declaration, Flag, Flags, flag
from chassis.config.settings.jobs import (
    BacklogSettings,
    IdempotencySettings,
    JobSettings,
    OutboxSettings,
    SweepSettings,
)
from chassis.config.settings.model import (
    BROKEN_RULE,
    RELOADED,
    Group,
    Host,
    Identifier,
    Period,
    Port,
    Rule,
    Ruled,
    Seconds,
    Secret,
    ServiceSecret,
    Timeout,
    Url,
)
from chassis.config.settings.service import ServiceSettings, flags_of
from chassis.config.settings.serving import (
    HttpSettings,
    Level,
    LogSettings,
    ManagementSettings,
    ReloadSettings,
    ShutdownSettings,
    TelemetrySettings,
)
from chassis.config.settings.storage import BudgetSettings, CacheSettings, DatabaseSettings, RedisSettings

__all__ = [
    "BROKEN_RULE",
    "BURST_SECONDS",
    "RELOADED",
    "AuthSettings",
    "BacklogSettings",
    "BreakerSettings",
    "BudgetSettings",
    "CacheSettings",
    "CallSum",
    "Causes",
    "DatabaseSettings",
    "Declaration",
    "DependencySettings",
    "EgressSettings",
    "ExternalDependencySettings",
    "Flag",
    "Flags",
    "Group",
    "Host",
    "HttpSettings",
    "IdempotencySettings",
    "Identifier",
    "JobSettings",
    "Level",
    "LimitSettings",
    "LogSettings",
    "ManagementSettings",
    "OutboxSettings",
    "Period",
    "Port",
    "PrincipalName",
    "RateLimitSettings",
    "RedisSettings",
    "ReloadSettings",
    "RetrySettings",
    "Rule",
    "Ruled",
    "Seconds",
    "Secret",
    "ServiceDependencySettings",
    "ServiceSecret",
    "ServiceSettings",
    "ShutdownSettings",
    "SweepSettings",
    "TelemetrySettings",
    "Timeout",
    "Url",
    "call_sum",
    "flag",
    "flags_of",
]
