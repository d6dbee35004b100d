"""Whether the platform is well: its objectives first, then its orders, its traffic, its work and its processes."""

from expressions import highest, quantile, rate, share_or_zero, total
from panels import Logs, Panel, Rows

_REQUESTS = "http_server_request_duration_seconds"
_PLACING = 'method="POST", route="/v1/orders"'
_OBJECTIVES = {"orders-availability": 0.001, "orders-latency": 0.01, "orders-settle-time": 0.01}


def _budgets() -> list[Panel]:
    return [
        Panel(
            f"Budget left: {name}",
            [(f'1 - slo:errors:ratio_rate3d{{slo="{name}"}} / {budget}', "")],
            unit="percentunit",
            shape="value",
            limit=0.0,
            is_floor=True,
            description=f"Of the errors that three days may have: {budget:.1%} of all. Below 0 they had too many.",
        )
        for name, budget in _OBJECTIVES.items()
    ]


ROWS: Rows = {
    "Objectives": [
        *_budgets(),
        Panel(
            "Alerts",
            [('sum by (alertname, severity) (ALERTS{alertstate="firing"})', "{{alertname}} ({{severity}})")],
            shape="stack",
            description="Each alert's page is docs/runbooks/<its name>.md.",
        ),
        Panel(
            "Burn rate, 1 hour",
            [
                (f'slo:errors:ratio_rate1h{{slo="{name}"}} / {budget}', name)
                for name, budget in _OBJECTIVES.items()
            ],
            limit=14.4,
            description="1 uses up a month's budget in a month; 14.4 wakes somebody up.",
        ),
    ],
    "Orders": [
        Panel("Placed", [(rate(f"{_REQUESTS}_count", "status", where=_PLACING), "{{status}}")],
              unit="reqps", shape="stack"),
        Panel("Final", [(rate("order_settle_seconds_count", "outcome"), "{{outcome}}")], unit="ops", shape="stack"),
        Panel(
            "Time until final",
            [(quantile(0.5, "order_settle_seconds"), "half"), (quantile(0.99, "order_settle_seconds"), "99 %")],
            unit="s",
            limit=30,
        ),
        Panel("Time to place", [
            (quantile(0.5, _REQUESTS, where=_PLACING), "half"),
            (quantile(0.99, _REQUESTS, where=_PLACING), "99 %"),
        ], unit="s", limit=0.5),
    ],
    "Traffic": [
        Panel("Requests", [(rate(f"{_REQUESTS}_count", "service"), "{{service}}")], unit="reqps", shape="stack"),
        Panel(
            "Share of 5xx",
            [(share_or_zero(f"{_REQUESTS}_count", 'status=~"5.."', "service"), "{{service}}")],
            unit="percentunit",
            limit=0.01,
        ),
        Panel("99 % answered within", [(quantile(0.99, _REQUESTS, "service"), "{{service}}")], unit="s"),
        Panel("Under way", [(total("http_server_active_requests", "service", where='role="api"'), "{{service}}")]),
    ],
    "Work": [
        Panel("Jobs ended", [(rate("jobs_processed_total", "service", "outcome"), "{{service}} {{outcome}}")],
              unit="ops", shape="stack"),
        Panel("Oldest due job", [(highest("job_queue_oldest_age_seconds", "service"), "{{service}}")],
              unit="s", limit=60),
        Panel("Oldest unpublished event", [(highest("outbox_lag_seconds", "service"), "{{service}}")],
              unit="s", limit=30),
        Panel("Dead", [
            (highest("job_dead_letters", "service"), "{{service}}: jobs"),
            (highest("messaging_dead_letters", "service"), "{{service}}: events"),
        ], limit=1),
    ],
    "Processes": [
        Panel("Answering", [('sum by (service, role) (up{role!="", service=~"$service"})', "{{service}} {{role}}")]),
        Panel("Memory", [(highest("process_resident_memory_bytes", "service", "role"), "{{service}} {{role}}")],
              unit="bytes"),
        Panel("CPU", [(rate("process_cpu_seconds_total", "service", "role"), "{{service}} {{role}}")]),
        Panel("Warnings and worse", [
            (rate("log_events_total", "service", "level", where='level=~"warning|error|critical"'),
             "{{service}} {{level}}"),
        ], unit="ops", shape="stack"),
        Logs("Errors", "level:in(error,critical)", "What the services say of what went wrong, the newest first."),
    ],
}  # fmt: skip
