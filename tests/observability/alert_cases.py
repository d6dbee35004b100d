"""For each alert: samples that make it fire, what it says then, and samples that must not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

type Series = dict[str, str]
"""A series, and a sample of it per minute in promtool's notation: `0+2x60` is 0, 2, 4 … over an hour."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """`bad` makes exactly one alert of that name at `at` (minutes), with these labels and this summary; `good` none."""

    alert: str
    labels: dict[str, str]
    summary: str
    bad: Series
    good: Series
    at: int = 30
    quiet_until: int = 0
    """The last minute at which `bad` makes no alert yet: `for` has not passed. 0 where it has none."""
    step: int = 1
    """Minutes between evaluations: three days of them take long."""


@dataclass(frozen=True, kw_only=True)
class _Slo:
    name: str
    alert: str
    budget: float
    what: str
    total: Sequence[str] = field(default_factory=tuple)
    """The series of good events, and that of bad ones or of all."""
    counts_bad: bool = False


_REQUESTS = "http_server_request_duration_seconds"
_PLACING = '{service="orders", method="POST", route="/v1/orders"'
_SLOS = (
    _Slo(
        name="orders-availability",
        alert="OrdersAvailability",
        budget=0.001,
        what="of orders' answers are 5xx",
        total=(
            f'{_REQUESTS}_count{{service="orders", status="201"}}',
            f'{_REQUESTS}_count{{service="orders", status="503"}}',
        ),
        counts_bad=True,
    ),
    _Slo(
        name="orders-latency",
        alert="OrdersLatency",
        budget=0.01,
        what="of orders take longer than 0.5 s to place",
        total=(f'{_REQUESTS}_bucket{_PLACING}, le="0.5"}}', f"{_REQUESTS}_count{_PLACING}}}"),
    ),
    _Slo(
        name="orders-settle-time",
        alert="OrdersSettleTime",
        budget=0.01,
        what="of orders take longer than 30 s until they are final",
        total=('order_settle_seconds_bucket{le="30.0"}', "order_settle_seconds_count"),
    ),
)
_DAYS_3 = 3 * 24 * 60
# Burn rate after three days without errors, its minutes, and what the alert about it says.
_BURNS = (
    ("1h", "page", 80, 15, "20", "2 days"),
    ("6h", "page", 12, 240, "8", "5 days"),
    ("3d", "ticket", 3, 0, "3", "30 days"),
)
_PER_MINUTE = 100_000


def _events(slo: _Slo, phases: Sequence[tuple[float, int]]) -> Series:
    """The phases' burn rates and minutes as two series of counters."""
    written = (["0"], ["0"])
    totals = [0, 0]
    for burn, minutes in phases:
        bad = round(_PER_MINUTE * slo.budget * burn)
        for place, step in enumerate((_PER_MINUTE - bad, bad if slo.counts_bad else _PER_MINUTE)):
            first = totals[place] + step
            written[place].append(f"{first}+{step}x{minutes - 1}")
            totals[place] += step * minutes
    return {name: " ".join(values) for name, values in zip(slo.total, written, strict=True)}


def _burning() -> Iterator[Case]:
    for slo in _SLOS:
        for window, severity, burn, minutes, seen, lasts in _BURNS:
            phases = [(0.0, _DAYS_3), (burn, minutes)] if minutes else [(burn, _DAYS_3)]
            share = f"{float(seen) * slo.budget * 100:.4g}%"
            yield Case(
                alert=slo.alert,
                labels={"slo": slo.name, "severity": severity, "window": window},
                summary=f"{share} {slo.what}: a month's budget lasts {lasts} at most",
                at=_DAYS_3 + minutes,
                step=15,
                bad=_events(slo, phases),
                good=_events(slo, [(0.5, _DAYS_3 + minutes)]),
            )


def _up(*, without: str = "") -> Series:
    names = ("orders", "payments", "notifications", "webhook-ingest")
    found = [(f'service="{name}", role="{role}"', f"{name}-{role}") for name in names for role in ("api", "worker")]
    return {f'up{{{labels}, instance="{name}"}}': "0x60" if name == without else "1x60" for labels, name in found} | {
        'up{service="payments", role="worker", instance="second"}': "1x60"
    }


def _rising(series: str, *, per_minute: float = 1) -> Series:
    return {series: f"0+{per_minute}x60"}


def _level(series: str, value: float) -> Series:
    return {series: f"{value}x60"}


CASES: tuple[Case, ...] = (
    *_burning(),
    Case(
        alert="ServiceMissing",
        labels={"service": "orders", "role": "worker", "severity": "page"},
        summary="no worker of orders answers",
        bad=_up(without="orders-worker"),
        good=_up(without="payments-worker"),  # another one is there
        quiet_until=1,
    ),
    Case(
        alert="ProcessDown",
        labels={"service": "payments", "role": "worker", "instance": "payments-worker", "severity": "ticket"},
        summary="payments-worker (payments worker) does not answer",
        bad=_up(without="payments-worker"),
        good=_up(),
        quiet_until=4,
    ),
    Case(
        alert="BackgroundTaskFails",
        labels={"service": "orders", "role": "api", "task": "wakeups", "severity": "ticket"},
        summary="orders api: the background task wakeups fails again and again",
        bad=_rising('background_task_failures_total{service="orders", role="api", task="wakeups"}'),
        good=_level('background_task_failures_total{service="orders", role="api", task="wakeups"}', 7),
        quiet_until=10,
    ),
    Case(
        alert="ErrorsLogged",
        labels={"service": "payments", "severity": "ticket"},
        summary="payments logs 3 errors a minute: operations fail",
        bad=_rising('log_events_total{service="payments", level="error"}', per_minute=3),
        good=_rising('log_events_total{service="payments", level="warning"}', per_minute=100),
        quiet_until=4,
    ),
    Case(
        alert="LogLinesLost",
        labels={"service": "orders", "level": "info", "severity": "ticket"},
        summary="orders lost 5 lines of level info",
        bad=_rising('log_events_dropped_total{service="orders", level="info"}'),
        good=_level('log_events_dropped_total{service="orders", level="info"}', 7),
    ),
    Case(
        alert="SpansLost",
        labels={"service": "orders", "severity": "ticket"},
        summary="orders cannot get rid of its spans",
        bad=_rising('trace_spans_exported_total{service="orders", result="lost"}'),
        good=_rising('trace_spans_exported_total{service="orders", result="sent"}'),
        quiet_until=9,
    ),
    Case(
        alert="PoolExhausted",
        labels={"service": "orders", "pool": "requests", "severity": "page"},
        summary="orders: nobody gets a connection of the pool requests in time",
        bad=_rising('db_client_connection_timeouts_total{service="orders", pool="requests"}'),
        good=_level('db_client_connection_timeouts_total{service="orders", pool="requests"}', 3),
        quiet_until=1,
    ),
    Case(
        alert="ConnectionsHeldLong",
        labels={"service": "orders", "pool": "requests", "severity": "ticket"},
        summary="orders held connections of the pool requests longer than overdue_after",
        bad=_rising('db_client_connection_overdue_total{service="orders", pool="requests"}'),
        good=_level('db_client_connection_overdue_total{service="orders", pool="requests"}', 3),
    ),
    Case(
        alert="ConfigRejected",
        labels={"service": "orders", "severity": "ticket"},
        summary="orders refused a changed configuration and goes on with the last good one",
        bad={'config_reload_total{service="orders", result="rejected"}': "0x20 1x40"},
        good=_rising('config_reload_total{service="orders", result="applied"}'),
    ),
    Case(
        alert="ConfigDrift",
        labels={"service": "orders", "role": "api", "severity": "ticket"},
        summary="orders's api processes run with 2 different configurations",
        bad={f'config_info{{service="orders", role="api", hash="{pod}", pod="{pod}"}}': "1x60" for pod in "ab"},
        good={f'config_info{{service="orders", role="api", hash="a", pod="{pod}"}}': "1x60" for pod in "ab"},
        quiet_until=14,
    ),
    Case(
        alert="RateLimiterWithoutRedis",
        labels={"service": "orders", "severity": "ticket"},
        summary="orders decides locally who is let in: Redis is slow or gone",
        bad=_rising('rate_limit_decisions_total{service="orders", decision="allowed", backend="local"}'),
        good=_rising('rate_limit_decisions_total{service="orders", decision="refused", backend="redis"}'),
        quiet_until=4,
    ),
    Case(
        alert="CriticalRequestsShed",
        labels={"service": "orders", "severity": "page"},
        summary="orders is full: it refuses 60 critical requests a minute",
        bad=_rising('load_shed_total{service="orders", criticality="critical"}', per_minute=60),
        good=_rising('load_shed_total{service="orders", criticality="sheddable"}', per_minute=60),
        quiet_until=1,
    ),
    Case(
        alert="ApiKeysStale",
        labels={"service": "orders", "severity": "ticket"},
        summary="orders has not read its clients' keys for 10m 0s",
        bad=_level('api_keys_age_seconds{service="orders", role="api"}', 600),
        good=_level('api_keys_age_seconds{service="orders", role="api"}', 30),
        quiet_until=4,
    ),
    Case(
        alert="JobsWait",
        labels={"service": "payments", "queue": "default", "severity": "page"},
        summary="payments: the oldest due job has waited 1m 30s",
        bad=_level('job_queue_oldest_age_seconds{service="payments", queue="default"}', 90),
        good=_level('job_queue_oldest_age_seconds{service="payments", queue="default"}', 50),
        quiet_until=4,
    ),
    Case(
        alert="JobsDead",
        labels={"service": "payments", "queue": "default", "severity": "ticket"},
        summary="payments has 2 jobs that nobody will run again by itself",
        bad=_level('job_dead_letters{service="payments", queue="default"}', 2),
        good=_level('job_dead_letters{service="payments", queue="default"}', 0),
        quiet_until=4,
    ),
    Case(
        alert="BacklogFull",
        labels={"service": "orders", "severity": "page"},
        summary="orders refuses new work: the accepted work takes too long",
        bad=_rising('backlog_refused_total{service="orders"}'),
        good=_level('backlog_refused_total{service="orders"}', 9),
    ),
    Case(
        alert="SchedulesFail",
        labels={"service": "orders", "schedule": "sweep", "severity": "ticket"},
        summary="orders: the schedule sweep fails",
        bad=_rising('schedule_runs_total{service="orders", schedule="sweep", outcome="failed"}'),
        good=_rising('schedule_runs_total{service="orders", schedule="sweep", outcome="done"}'),
        quiet_until=6,
    ),
    Case(
        alert="OutboxLag",
        labels={"service": "orders", "severity": "page"},
        summary="orders: an event has waited 45s to be published",
        bad=_level('outbox_lag_seconds{database="orders", service="orders", role="worker"}', 45),
        good=_level('outbox_lag_seconds{database="orders", service="orders", role="worker"}', 5),
        quiet_until=1,
    ),
    Case(
        alert="TransactionLeftOpen",
        labels={"service": "orders", "severity": "ticket"},
        summary="orders: a transaction has been open for 6m 40s",
        bad=_level('database_oldest_transaction_seconds{database="orders", service="orders", role="worker"}', 400),
        good=_level('database_oldest_transaction_seconds{database="orders", service="orders", role="worker"}', 200),
        quiet_until=1,
    ),
    Case(
        alert="OutboxWithoutLeader",
        labels={"service": "orders", "severity": "page"},
        summary="nobody publishes orders's events",
        bad={
            f'outbox_is_leader{{database="orders", service="orders", role="worker", pod="{pod}"}}': "0x60"
            for pod in "ab"
        },
        good={
            f'outbox_is_leader{{database="orders", service="orders", role="worker", pod="{pod}"}}': f"{pod}x60"
            for pod in "01"
        },
        quiet_until=1,
    ),
    Case(
        alert="TransactionLeftOpen",
        labels={"service": "orders", "severity": "ticket"},
        summary="orders: a transaction has been open for 6m 40s",
        bad=_level('database_oldest_transaction_seconds{database="orders", service="orders", role="worker"}', 400),
        good=_level('database_oldest_transaction_seconds{database="orders", service="orders", role="worker"}', 200),
    ),
    Case(
        alert="ConsumersLag",
        labels={"stream": "events:orders", "group": "notifications", "severity": "page"},
        summary="notifications does not keep up with events (5k unread, or seconds held)",
        bad=_level('messaging_consumer_lag{stream="events:orders", group="notifications"}', 5000),
        good=_level('messaging_consumer_lag{stream="events:orders", group="notifications"}', 900),
        quiet_until=4,
    ),
    Case(
        alert="ConsumersLag",
        labels={"group": "orders", "severity": "page"},
        summary="orders does not keep up with events (400 unread, or seconds held)",
        bad=_level('messaging_held_oldest_age_seconds{group="orders"}', 400),
        good=_level('messaging_held_oldest_age_seconds{group="orders"}', 10),
        quiet_until=4,
    ),
    Case(
        alert="EventsDead",
        labels={"service": "orders", "group": "orders", "severity": "ticket"},
        summary="orders has 1 events that it could not handle",
        bad=_level('messaging_dead_letters{service="orders", group="orders"}', 1),
        good=_level('messaging_dead_letters{service="orders", group="orders"}', 0),
        quiet_until=4,
    ),
    Case(
        alert="RetryBudgetSpent",
        labels={"service": "payments", "dependency": "provider", "severity": "ticket"},
        summary="payments has no retries left for provider",
        bad=_rising('retry_stopped_total{service="payments", dependency="provider", reason="budget"}'),
        good=_rising('retry_stopped_total{service="payments", dependency="provider", reason="attempts"}'),
        quiet_until=4,
    ),
    Case(
        alert="BreakerOpen",
        labels={"service": "payments", "dependency": "provider", "operation": "charge", "severity": "page"},
        summary="payments leaves provider/charge alone",
        # Half-open now and then, as it tries.
        bad={'circuit_breaker_state{service="payments", dependency="provider", operation="charge"}': "0x9 1x9 2 1x40"},
        good={'circuit_breaker_state{service="payments", dependency="provider", operation="charge"}': "0x26 1 2 0x40"},
        quiet_until=15,
    ),
    Case(
        alert="BreakerOverruled",
        labels={"service": "payments", "dependency": "provider", "operation": "charge", "severity": "ticket"},
        summary="somebody decides for the breaker provider/charge of payments",
        bad={'circuit_breaker_mode{service="payments", dependency="provider", operation="charge"}': "2x90"},
        good={'circuit_breaker_mode{service="payments", dependency="provider", operation="charge"}': "2x30 0x60"},
        at=80,
        quiet_until=59,
    ),
    Case(
        alert="CacheBypassed",
        labels={"service": "orders", "cache": "orders:order", "severity": "ticket"},
        summary="50% of the reads of orders:order go past the cache",
        bad={
            f'cache_requests_total{{service="orders", cache="orders:order", result="{result}"}}': "0+9x60"
            for result in ("miss", "bypass")
        },
        good={
            f'cache_requests_total{{service="orders", cache="orders:order", result="{result}"}}': "0+9x60"
            for result in ("miss", "stale")
        },
        quiet_until=4,
    ),
    Case(
        alert="WebhookSignaturesRejected",
        labels={"provider": "stripe", "severity": "page"},
        summary="25% of the webhooks of stripe have a wrong signature",
        bad={
            'webhook_received_total{provider="stripe", result="bad_signature"}': "0+3x60",
            'webhook_received_total{provider="stripe", result="accepted"}': "0+9x60",
        },
        good={
            'webhook_received_total{provider="stripe", result="bad_signature"}': "0+1x60",
            'webhook_received_total{provider="stripe", result="accepted"}': "0+99x60",
        },
        quiet_until=4,
    ),
    Case(
        alert="WebhooksAnsweredSlowly",
        labels={"provider": "stripe", "severity": "ticket"},
        summary="a webhook of stripe in a hundred waits 2.5s for its answer",
        bad={
            f'webhook_ack_duration_seconds_bucket{{provider="stripe", le="{le}"}}': f"0+{n}x60"
            for le, n in (("1.0", 90), ("2.5", 99), ("+Inf", 100))
        },
        good={
            f'webhook_ack_duration_seconds_bucket{{provider="stripe", le="{le}"}}': f"0+{n}x60"
            for le, n in (("0.5", 90), ("1.0", 100), ("+Inf", 100))
        },
        quiet_until=9,
    ),
    Case(
        alert="WebhookDeliveriesFail",
        labels={"severity": "ticket"},
        summary="75% of the attempts to deliver customers' webhooks fail",
        bad={
            'webhook_delivery_attempts_total{result="timeout"}': "0+3x60",
            'webhook_delivery_attempts_total{result="delivered"}': "0+1x60",
        },
        good={
            'webhook_delivery_attempts_total{result="timeout"}': "0+1x60",
            'webhook_delivery_attempts_total{result="delivered"}': "0+3x60",
        },
        quiet_until=14,
    ),
)
