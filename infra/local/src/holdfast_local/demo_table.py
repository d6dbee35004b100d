"""The table at the demo's end: for each of the ten patterns, what it did in this run, by the platform's own count."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.table import Table

from holdfast_local.demo_client import ProcessInfo
from holdfast_local.demo_metrics import Metrics
from holdfast_local.demo_verdict import Told


def as_table(told: Told) -> Table:
    table = Table("pattern", "what it did in this run", box=None, header_style="bold", pad_edge=False)
    for pattern, deeds in pattern_rows(told).items():
        table.add_row(pattern, deeds)
    return table


def pattern_rows(told: Told) -> dict[str, str]:
    """What each pattern did, by the pattern's name: that of its module, its page and its tests."""
    metrics = told.metrics
    return {
        "logging": _logging(metrics),
        "pooling": _pooling(metrics),
        "errors": _errors(metrics),
        "config": _config(told.processes),
        "rate_limiting": _rate_limiting(metrics),
        "jobs": _jobs(metrics),
        "retries": _retries(metrics),
        "circuit_breaker": _circuit_breaker(metrics),
        "caching": _caching(metrics),
        "webhooks": _webhooks(metrics),
    }


def _logging(metrics: Metrics) -> str:
    levels = {"info": 0, "warning": 0, "error": 0} | metrics.by("log_events_total", "level")
    return f"{_count(sum(levels.values()), 'line')}: {_listed(levels)}"


def _pooling(metrics: Metrics) -> str:
    """Of the pools of requests and jobs; those of health checks and of Redis are not what an order waits for."""
    name, pools = "db_client_connection", ("requests", "jobs")

    def total(metric: str) -> int:
        return sum(metrics.total(f"{name}_{metric}", pool=pool) for pool in pools)

    waits = [metrics.quantile(f"{name}_wait_time_seconds", 0.99, pool=pool) for pool in pools]
    return (
        f"{_count(total('wait_time_seconds_count'), 'checkout')}, p99 of the wait {_at_most(max(waits))}, "
        f"{_count(total('timeouts_total'), 'time-out')}; {total('count')} connections open of at most {total('max')}"
    )


def _errors(metrics: Metrics) -> str:
    codes = metrics.by("api_errors_total", "code")
    return f"{_count(sum(codes.values()), 'answer')} in the envelope: {_listed(codes)}"


def _config(processes: Sequence[ProcessInfo]) -> str:
    roles = Counter(process.role for process in processes)
    environments = ", ".join(sorted({process.environment for process in processes}))
    return (
        f"{_count(len(processes), 'process')} ({_listed(roles)}; {environments}) "
        "validated every setting before they opened a port"
    )


def _rate_limiting(metrics: Metrics) -> str:
    name = "rate_limit_decisions_total"
    decisions = {"allowed": 0, "refused": 0} | metrics.by(name, "decision")
    return f"{_listed(decisions)}; decided by: {_listed(metrics.by(name, 'backend'))}"


def _jobs(metrics: Metrics) -> str:
    outcomes = metrics.by("jobs_processed_total", "outcome")
    expired, dead = metrics.total("job_leases_expired_total"), metrics.total("job_dead_letters")
    return f"{_listed(outcomes)}; {_count(expired, 'lease')} expired, {_count(dead, 'dead letter')}"


def _retries(metrics: Metrics) -> str:
    name = "retry_attempts_total"
    dependencies = metrics.by(name, "dependency")
    return "; ".join(
        f"{dependency}: {_listed(metrics.by(name, 'outcome', dependency=dependency))}" for dependency in dependencies
    )


def _circuit_breaker(metrics: Metrics) -> str:
    name = "circuit_breaker"
    changes = metrics.by(f"{name}_transitions_total", "to")
    return (
        f"opened {_times(changes.get('open', 0))}, half-open {_times(changes.get('half_open', 0))}, "
        f"closed {_times(changes.get('closed', 0))}; {_count(metrics.total(f'{name}_failures_total'), 'failure')}, "
        f"{_count(metrics.total(f'{name}_rejections_total'), 'call')} kept away"
    )


def _caching(metrics: Metrics) -> str:
    name = "cache_requests_total"
    caches = metrics.by(name, "cache")
    return "; ".join(f"{cache}: {_listed(metrics.by(name, 'result', cache=cache))}" for cache in caches)


def _webhooks(metrics: Metrics) -> str:
    results = metrics.by("webhook_received_total", "result")
    attempts = metrics.by("webhook_delivery_attempts_total", "result")
    p99 = _at_most(metrics.quantile("webhook_ack_duration_seconds", 0.99))
    return f"in: {_listed(results)}, p99 until answered {p99}; out: {_listed(attempts)}"


def _listed(counts: Mapping[str, int]) -> str:
    """`12 completed, 3 retried`."""
    return (
        ", ".join(f"{count:,} {name.replace('_', ' ') if name.islower() else name}" for name, count in counts.items())
        or "none"
    )


def _count(number: int, noun: str) -> str:
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural}"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _at_most(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown"
    return f"≤ {seconds * 1000:g} ms" if math.isfinite(seconds) else "above every bucket"
