"""The page of all metrics, from the objects that the code counts with."""
# ruff: noqa: INP001  beside the script that uses it, not a package

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import chassis
import notifications
import orders
import payments
import webhook_ingest
from metric_labels import ABSENT, Bound, bound_of
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase


class Metric(NamedTuple):
    """`name` as the code has it; `exposed` as Prometheus has it, a histogram's without `_bucket`, `_sum`, `_count`."""

    name: str
    exposed: str
    kind: str
    labels: tuple[str, ...]
    help: str


GROUPS: dict[str, tuple[str, ...]] = {
    "Orders": ("order_",),
    "[Logging](../patterns/logging.md) and [traces](tracing.md)": ("log_", "trace_"),
    "[Pooling](../patterns/pooling.md)": ("db_client_", "http_client_open_", "http_client_connection_"),
    "[Requests and errors](../patterns/errors.md)": ("http_server_", "api_errors", "deadline_"),
    "[Configuration](../patterns/config.md)": ("config_", "feature_flag_"),
    "[Rate limiting](../patterns/rate_limiting.md) and [keys](authentication.md)": (
        "rate_limit_",
        "load_shed",
        "call_limit_",
        "dependency_pauses",
        "api_keys_",
    ),
    "[Jobs](../patterns/jobs.md), schedules and [background tasks](shutdown.md)": (
        "backlog_",
        "job_",
        "jobs_",
        "schedule_",
        "background_",
    ),
    "[Outbox and streams](outbox.md)": ("outbox_", "messaging_", "database_"),
    "[Retries](../patterns/retries.md) and calls": ("retry_", "http_client_request_", "degraded_"),
    "[Circuit breaker](../patterns/circuit_breaker.md) and bulkhead": ("circuit_breaker_", "bulkhead_"),
    "[Caching](../patterns/caching.md)": ("cache_",),
    "[Webhooks](../patterns/webhooks.md)": ("webhook_",),
}
"""The sections of the page, by how the names in them begin."""

_TEXT = """\
Every process serves them at `/metrics` on its management port. Times are seconds, sizes bytes; a counter ends in
`_total`. A histogram has `_bucket`, `_sum` and `_count`. Both also have `_created`, the time of their first
value. `process_…` and `python_…` are prometheus-client's own: memory, CPU, open files, garbage
collection.

Prometheus adds `service`, `role` (`api`, `worker`), `pod` and `instance` ([how](../tutorial/observability.md)). The
values of a label are those listed, or at most as many as stated in one process: nothing that a client sends becomes
one. `make test-observability` compares this page with what all processes expose after the demo's story."""
_SELDOM = """\
## Not there until it happens

A metric with labels has no sample before its first event. Of these a healthy run sees none:"""


def metrics_page(generated: str) -> str:
    metrics = all_metrics()
    sections = [f"## {title}\n\n" + _table([m for m in metrics if _group(m.name) == title]) for title in GROUPS]
    absent = "\n".join(f"- `{_exposed_name(name, metrics)}`: {reason}" for name, reason in ABSENT.items())
    parts = [
        "# Metrics",
        generated,
        _TEXT,
        *sections,
        _SELDOM,
        absent,
    ]
    return "\n\n".join(parts) + "\n"


def all_metrics() -> list[Metric]:
    """What the chassis and the services count, by name."""
    for package in (chassis, orders, payments, notifications, webhook_ingest):
        _import_all(package.__name__, package.__path__)
    collectors = REGISTRY._collector_to_names  # noqa: SLF001
    return sorted(_metric(each) for each in collectors if isinstance(each, MetricWrapperBase))


def _import_all(name: str, path: Sequence[str]) -> None:
    for module in pkgutil.walk_packages(path, f"{name}."):
        if not any(part in module.name for part in (".migrations", "__main__")):
            importlib.import_module(module.name)


def _metric(one: MetricWrapperBase) -> Metric:
    family = next(iter(one.describe()))
    labels = tuple(one._labelnames)  # noqa: SLF001
    exposed = f"{family.name}_total" if family.type == "counter" else family.name
    return Metric(family.name, exposed, family.type, labels, family.documentation)


def _group(name: str) -> str:
    """Raises LookupError for a metric that belongs nowhere."""
    for title, beginnings in GROUPS.items():
        if name.startswith(beginnings):
            return title
    raise LookupError(f"{name} has no section in docs/metrics_page.py")


def _table(metrics: list[Metric]) -> str:
    head = "| Metric | Kind | Labels | What it is |\n|---|---|---|---|\n"
    return head + "\n".join(
        f"| `{metric.exposed}` | {metric.kind} | {'<br>'.join(_labels(metric))} | {metric.help} |" for metric in metrics
    )


def _labels(metric: Metric) -> Iterator[str]:
    for label in metric.labels:
        yield f"`{label}`: {_text(bound_of(metric.name, label))}"


def _text(bound: Bound) -> str:
    if len(bound.values) > 10:  # noqa: PLR2004  a page of its own has them
        return f"one of {len(bound.values)}"
    return ", ".join(f"`{value}`" for value in bound.values) or f"≤ {bound.at_most}, {bound.what}"


def _exposed_name(name: str, metrics: list[Metric]) -> str:
    return next(metric.exposed for metric in metrics if metric.name == name)
