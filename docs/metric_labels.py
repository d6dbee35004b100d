"""What the labels of metrics may be, and when a metric is not there: what the page says and the tests hold it to.

A label's values are listed, from the code wherever it lists them itself, or bounded by a number and a reason.
"""
# ruff: noqa: INP001  beside the script that uses it, not a package

from itertools import chain
from typing import Any, NamedTuple, TypeAliasType, get_args

from chassis import caching, circuit_breaker, webhooks
from chassis.app.api import load_shedding
from chassis.calls import degraded
from chassis.errors import ErrorCode
from chassis.events import delivery as event_delivery
from chassis.jobs.decisions import Outcome as JobOutcome
from chassis.logging import debugging
from chassis.process import reloading
from chassis.rate_limiting.limiter import Backend
from chassis.retries.decisions import StopReason
from webhook_ingest.models import Provider


class Bound(NamedTuple):
    """Either all `values` there may be, or how many there are `at_most` and of `what`."""

    values: tuple[str, ...] = ()
    at_most: int = 0
    what: str = ""


def _of(*values: str) -> Bound:
    return Bound(values=values)


def _literal(alias: Any) -> Bound:
    """The values of a `type X = Literal[…]`, which may name another one."""
    parts = (_literal(it).values if isinstance(it, TypeAliasType) else (it,) for it in get_args(alias.__value__))
    return Bound(values=tuple(chain.from_iterable(parts)))


_STATES = _literal(circuit_breaker.State)

LABELS: dict[str, Bound] = {
    "cache": Bound(at_most=5, what="names of caches, `<service>:<what>`"),
    "cause": _literal(degraded.Cause),
    "code": Bound(values=tuple(code.name for code in ErrorCode)),
    "criticality": _literal(load_shedding.Criticality),
    "database": Bound(at_most=1, what="the service's database"),
    "decision": _of("allowed", "refused", "would_refuse"),
    "backend": _literal(Backend),
    "dependency": _of("payments", "provider", "customers", "suspect_customers"),
    "error_type": Bound(at_most=40, what="SQLSTATEs, or names of exceptions"),
    "flag": Bound(at_most=5, what="names of a service's feature flags"),
    "from": _STATES,
    "group": _of("orders", "payments", "notifications"),
    "hash": Bound(at_most=1, what="the first 12 digits of a SHA-256"),
    "job": Bound(at_most=8, what="names of jobs"),
    "level": _of("debug", "info", "warning", "error", "critical"),
    "method": Bound(at_most=34, what="the methods that HTTP knows"),
    "operation": Bound(at_most=12, what="names of calls, or first words of statements"),
    "policy": _of("default", "edge", "unauthenticated", "bad_credentials"),
    "pool": _of("requests", "jobs", "health", "redis", "streams", "cli"),
    "provider": Bound(values=tuple(provider.value for provider in Provider)),
    "queue": _of("default", "webhooks"),
    "reason": _literal(StopReason),
    "route": Bound(at_most=20, what="templates of routes, and `unmatched`"),
    "schedule": Bound(at_most=8, what="names of schedules"),
    "status": Bound(at_most=60, what="HTTP's status codes; empty where there was no answer"),
    "stream": _of("events:orders", "events:payments", "events:webhook-ingest"),
    "task": _of("wakeups", "reloading", "api-keys", "backlog", "redis-claim", "watchdog"),
    "tier": Bound(at_most=5, what="tiers of `rate_limit.tiers`, `standard`, and `stranger`"),
    "to": _STATES,
    "type": Bound(at_most=20, what="types of events"),
}
"""By label. What is different at one metric stands in `LABELS_OF`."""

LABELS_OF: dict[tuple[str, str], Bound] = {
    ("cache_requests", "result"): _literal(caching.Result),
    ("config_reload", "result"): _literal(reloading.Result),
    ("feature_flag_evaluations", "result"): _of("on", "off"),
    ("log_debug_headers", "result"): _literal(debugging.HeaderCheck),
    ("trace_spans_exported", "result"): _of("sent", "lost"),
    ("webhook_delivery_attempts", "result"): _literal(webhooks.AttemptResult),
    ("webhook_endpoints_disabled", "reason"): _of("gone", "failing"),
    ("webhook_processed", "result"): _literal(webhooks.ProcessedResult),
    ("webhook_received", "result"): _literal(webhooks.ReceivedResult),
    ("call_limit_decisions", "decision"): _of("sent", "waited", "refused"),
    ("jobs_processed", "outcome"): _literal(JobOutcome),
    ("messaging_consumed", "outcome"): _literal(event_delivery.Outcome),
    ("order_settle_seconds", "outcome"): _of("confirmed", "cancelled"),
    ("retry_attempts", "outcome"): _of("success", "not_run", "unknown", "answered", "refused_here"),
    ("schedule_runs", "outcome"): _of("done", "early", "elsewhere", "failed"),
    ("db_client_connection_count", "state"): _of("idle", "used"),
    ("http_client_open_connections", "state"): _of("active", "idle"),
    ("messaging_client_operation_duration_seconds", "operation"): _of("send", "receive"),
}

ABSENT: dict[str, str] = {
    "dependency_pauses": "a dependency has to refuse a call",
    "db_client_connection_held_calls": "a call while a connection is held fails where `database.held_calls` refuses it",
    "messaging_missed": "Redis has to trim what a group has not read",
    "schedule_runs_missed": "no worker may have run for a while",
}
"""Metrics without a sample in a run where nothing of this happens."""


def bound_of(metric: str, label: str) -> Bound:
    """Raises KeyError for a label that nobody has bounded."""
    return LABELS_OF.get((metric, label)) or LABELS[label]
