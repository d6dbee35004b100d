"""A row per pattern, of the pattern's name: what it does now, and whether it is needed more than it should be."""

from expressions import highest, lowest, quantile, rate, share, total
from panels import Logs, Panel, Rows

_DB = "db_client_connection"
_POOL = ("service", "pool")
_REQUESTS = "http_server_request_duration_seconds"
_CALLS = "http_client_request_duration_seconds"

ROWS: Rows = {
    "logging": [
        Panel("Lines", [(rate("log_events_total", "level"), "{{level}}")], unit="ops", shape="stack"),
        Panel("Warnings and worse", [
            (rate("log_events_total", "service", "level", where='level=~"warning|error|critical"'),
             "{{service}} {{level}}"),
        ], unit="ops"),
        Panel("Not written", [
            (rate("log_events_suppressed_total", "service"), "{{service}}: repeats"),
            (rate("log_events_dropped_total", "service"), "{{service}}: lost"),
        ], unit="ops"),
        Panel("Asked for DEBUG by a header", [(rate("log_debug_headers_total", "result"), "{{result}}")], unit="ops"),
        Panel("Spans exported", [(rate("trace_spans_exported_total", "result"), "{{result}}")],
              unit="ops", description="Nothing where no collector is configured."),
        Logs("Warnings and worse", "level:in(warning,error,critical)"),
    ],
    "pooling": [
        Panel("Connections used", [(total(f"{_DB}_count", "service", "pool", where='state="used"'),
                                    "{{service}} {{pool}}")]),
        Panel("Share of the pool used", [
            (f"{total(f'{_DB}_count', *_POOL, where='state="used"')} / {total(f'{_DB}_max', *_POOL)}",
             "{{service}} {{pool}}"),
        ], unit="percentunit", limit=0.9),
        Panel("99 % wait for a connection", [
            (quantile(0.99, f"{_DB}_wait_time_seconds", "service", "pool"), "{{service}} {{pool}}"),
        ], unit="s", limit=0.25),
        Panel("Who waits, who gave up", [
            (total(f"{_DB}_pending_requests", "service"), "{{service}}: waiting"),
            (rate(f"{_DB}_timeouts_total", "service"), "{{service}}: gave up a second"),
        ]),
        Panel("99 % held for", [(quantile(0.99, f"{_DB}_use_time_seconds", "service", "pool"),
                                 "{{service}} {{pool}}")], unit="s"),
        Panel("99 % of statements", [(quantile(0.99, "db_client_operation_duration_seconds", "service", "operation"),
                                      "{{service}} {{operation}}")], unit="s"),
        Panel("Held too long, or over a call", [
            (rate(f"{_DB}_overdue_total", "service", "pool"), "{{service}} {{pool}}: overdue"),
            (rate(f"{_DB}_held_calls_total", "service", "dependency"), "{{service}}: over a call to {{dependency}}"),
        ], unit="ops"),
        Panel("HTTP connections", [(total("http_client_open_connections", "service", "dependency", "state"),
                                    "{{service}} → {{dependency}}, {{state}}")]),
    ],
    "errors": [
        Panel("Error answers", [(rate("api_errors_total", "code"), "{{code}}")], unit="reqps", shape="stack"),
        Panel("By status", [(rate(f"{_REQUESTS}_count", "service", "status", where='status=~"[45].."'),
                             "{{service}} {{status}}")], unit="reqps"),
        Panel("99 % answered within", [(quantile(0.99, _REQUESTS, "service", "route"), "{{service}} {{route}}")],
              unit="s"),
        Panel("Not begun, its deadline had passed", [(rate("deadline_exceeded_total", "service"), "{{service}}")],
              unit="ops"),
    ],
    "config": [
        Panel("Configurations at once", [
            ('count by (service, role) (count by (service, role, hash) (config_info{service=~"$service"}))',
             "{{service}} {{role}}"),
        ], limit=2, description="More than one: a rollout, or processes that missed a change."),
        Panel("Changed files", [(rate("config_reload_total", "service", "result"), "{{service}} {{result}}")],
              unit="ops"),
        Panel("Processes since", [
            ('time() - min by (service, role) (process_start_time_seconds{service=~"$service"})',
             "{{service}} {{role}}"),
        ], unit="s"),
    ],
    "rate_limiting": [
        Panel("Decisions", [(rate("rate_limit_decisions_total", "decision"), "{{decision}}")],
              unit="reqps", shape="stack"),
        Panel("Share refused", [(share("rate_limit_decisions_total", 'decision="refused"', "service", "policy"),
                                 "{{service}} {{policy}}")], unit="percentunit"),
        Panel("Decided by", [(rate("rate_limit_decisions_total", "service", "backend"), "{{service}} {{backend}}")],
              unit="reqps", description="local: Redis was slow or away."),
        Panel("Shed", [(rate("load_shed_total", "service", "criticality"), "{{service}} {{criticality}}")],
              unit="reqps"),
        Panel("Keys read before", [(highest("api_keys_age_seconds", "service", where='role="api"'), "{{service}}")],
              unit="s", limit=300),
    ],
    "jobs": [
        Panel("Attempts ended", [(rate("jobs_processed_total", "job", "outcome"), "{{job}} {{outcome}}")],
              unit="ops", shape="stack"),
        Panel("Oldest due job", [(highest("job_queue_oldest_age_seconds", "service", "queue"),
                                  "{{service}} {{queue}}")], unit="s", limit=60),
        Panel("Due jobs", [(highest("job_queue_depth", "service", "queue"), "{{service}} {{queue}}")]),
        Panel("Empty in", [(lowest("job_queue_drain_seconds", "service", "queue"), "{{service}} {{queue}}")],
              unit="s", description="At the rate it shrinks now; nothing while it does not."),
        Panel("99 % picked up after", [(quantile(0.99, "job_pick_up_seconds", "service"), "{{service}}")], unit="s"),
        Panel("99 % of attempts take", [(quantile(0.99, "job_duration_seconds", "job"), "{{job}}")], unit="s"),
        Panel("Dead letters", [(highest("job_dead_letters", "service", "queue"), "{{service}} {{queue}}")], limit=1),
        Panel("Leases expired", [(rate("job_leases_expired_total", "service", "job"), "{{service}} {{job}}")],
              unit="ops", description="A worker went silent: killed, or its event loop stood still."),
        Panel("Backlog, and requests refused for it", [
            (highest("backlog_seconds", "service"), "{{service}}: accepted work, seconds"),
            (highest("backlog_oldest_age_seconds", "service"), "{{service}}: age of the oldest, seconds"),
            (lowest("backlog_rate", "service"), "{{service}}: done a second"),
            (rate("backlog_refused_total", "service"), "{{service}}: refused a second"),
        ]),
        Panel("Schedules", [(rate("schedule_runs_total", "schedule", "outcome", where='outcome=~"done|failed"'),
                             "{{schedule}} {{outcome}}")], unit="ops"),
        Panel("Schedules' runs left out", [(rate("schedule_runs_missed_total", "service", "schedule"),
                                            "{{service}} {{schedule}}")], unit="ops"),
        Panel("Background tasks that fail", [
            (rate("background_task_failures_total", "service", "role", "task"), "{{service}} {{role}} {{task}}"),
        ], unit="ops"),
        Panel("Outbox: published", [
            (rate("outbox_published_total", "stream"), "{{stream}}"),
            (rate("outbox_republished_total", "stream"), "{{stream}}: again"),
        ], unit="ops"),
        Panel("Outbox: waiting", [
            (highest("outbox_lag_seconds", "service"), "{{service}}: the oldest, seconds"),
            (highest("outbox_unpublished", "service"), "{{service}}: events"),
        ]),
        Panel("Outbox: leaders", [
            (total("outbox_is_leader", "service", where='role="worker"'), "{{service}}"),
            (highest("outbox_held_back", "service", "stream"), "{{service}}: {{stream}} is full"),
        ]),
        Panel("Oldest open transaction", [(highest("database_oldest_transaction_seconds", "service"), "{{service}}")],
              unit="s", limit=300, description="It holds vacuum back: the tables of jobs and events grow."),
        Panel("Events handled", [(rate("messaging_consumed_total", "type", "outcome"), "{{type}} {{outcome}}")],
              unit="ops", shape="stack"),
        Panel("99 % of events take", [(quantile(0.99, "messaging_process_duration_seconds", "type"), "{{type}}")],
              unit="s"),
        Panel("99 % of batches to and from Redis", [
            (quantile(0.99, "messaging_client_operation_duration_seconds", "operation", "stream"),
             "{{operation}} {{stream}}"),
        ], unit="s", description="receive includes the wait for an event."),
        Panel("Consumers: unread, unacknowledged", [
            (highest("messaging_consumer_lag", "stream", "group"), "{{group}} ← {{stream}}: unread"),
            (highest("messaging_consumer_pending", "stream", "group"), "{{group}} ← {{stream}}: unacknowledged"),
        ]),
        Panel("Consumers: held, missed", [
            (highest("messaging_held_oldest_age_seconds", "group"), "{{group}}: the oldest held, seconds"),
            (rate("messaging_missed_total", "group", "stream"), "{{group}}: missed of {{stream}} a second"),
        ]),
        Panel("Dead events", [(highest("messaging_dead_letters", "service", "group"), "{{group}}")], limit=1),
    ],
    "retries": [
        Panel("Attempts", [(rate("retry_attempts_total", "dependency", "outcome"), "{{dependency}} {{outcome}}")],
              unit="ops", shape="stack"),
        Panel("Given up because of", [(rate("retry_stopped_total", "dependency", "reason"),
                                       "{{dependency}} {{reason}}")], unit="ops"),
        Panel("Attempts per call", [
            (f"{rate('retry_amplification_sum', 'dependency')} / {rate('retry_amplification_count', 'dependency')}",
             "{{dependency}}"),
        ], limit=1.2, description="The amplification factor. Below 1: calls that were never made."),
        Panel("Retries the budget allows", [(lowest("retry_budget_balance", "service", "dependency"),
                                             "{{service}} → {{dependency}}")], limit=1, is_floor=True),
    ],
    "circuit_breaker": [
        Panel("State", [(highest("circuit_breaker_state", "dependency", "operation"), "{{dependency}} {{operation}}")],
              limit=1, description="0 closed, 1 open, 2 half-open; the highest of all processes."),
        Panel("Changes", [(rate("circuit_breaker_transitions_total", "dependency", "operation", "to"),
                           "{{dependency}} {{operation}} → {{to}}")], unit="ops"),
        Panel("Failed, kept away", [
            (rate("circuit_breaker_failures_total", "dependency", "operation"), "{{dependency}} {{operation}}: failed"),
            (rate("circuit_breaker_rejections_total", "dependency", "operation"),
             "{{dependency}} {{operation}}: kept away"),
        ], unit="ops"),
        Panel("Overruled", [
            (highest("circuit_breaker_mode", "dependency", "operation"), "{{dependency}} {{operation}}: mode"),
            (rate("circuit_breaker_overruled_total", "dependency", "operation"),
             "{{dependency}} {{operation}}: let through a second"),
        ], description="Mode 0 automatic, 1 forced open, 2 disabled, 3 observing only."),
        Panel("Calls", [(rate(f"{_CALLS}_count", "dependency", "operation", "status"),
                         "{{dependency}} {{operation}} {{status}}")], unit="ops", shape="stack"),
        Panel("99 % of calls take", [(quantile(0.99, _CALLS, "dependency", "operation"),
                                      "{{dependency}} {{operation}}")], unit="s"),
        Panel("Calls under way", [(total("bulkhead_in_flight", "service", "dependency"),
                                   "{{service}} → {{dependency}}")]),
    ],
    "caching": [
        Panel("Reads", [(rate("cache_requests_total", "cache", "result"), "{{cache}} {{result}}")],
              unit="ops", shape="stack"),
        Panel("Share answered from the cache", [
            (share("cache_requests_total", 'result=~"hit|stale|negative"', "cache"), "{{cache}}"),
        ], unit="percentunit"),
        Panel("Age of what is answered", [
            (quantile(0.5, "cache_staleness_seconds", "cache"), "{{cache}}: half"),
            (quantile(0.99, "cache_staleness_seconds", "cache"), "{{cache}}: 99 %"),
        ], unit="s"),
        Panel("99 % of loads take", [(quantile(0.99, "cache_recompute_duration_seconds", "cache"), "{{cache}}")],
              unit="s"),
    ],
    "webhooks": [
        Panel("Received", [(rate("webhook_received_total", "provider", "result"), "{{provider}} {{result}}")],
              unit="reqps", shape="stack"),
        Panel("99 % answered within", [(quantile(0.99, "webhook_ack_duration_seconds", "provider"), "{{provider}}")],
              unit="s", limit=1),
        Panel("Processed", [(rate("webhook_processed_total", "provider", "result"), "{{provider}} {{result}}")],
              unit="ops", shape="stack"),
        Panel("Endpoints disabled", [(rate("webhook_endpoints_disabled_total", "reason"), "{{reason}}")], unit="ops"),
        Panel("Attempts to deliver", [(rate("webhook_delivery_attempts_total", "result"), "{{result}}")],
              unit="ops", shape="stack"),
        Panel("Share delivered", [(share("webhook_delivery_attempts_total", 'result="delivered"'), "delivered")],
              unit="percentunit", limit=0.5, is_floor=True),
    ],
}  # fmt: skip
