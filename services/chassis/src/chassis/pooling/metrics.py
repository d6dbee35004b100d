"""The metrics of pools: OpenTelemetry's `db.client.*` in Prometheus' spelling. The label `pool` is the pool's name."""

from prometheus_client import Counter, Gauge, Histogram

# The smallest bucket is about the time that it takes to get an idle connection. The largest bucket is the largest
# `pool_timeout` that the settings allow.
_WAITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)
_DURATIONS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)  # the buckets that OpenTelemetry recommends

count = Gauge("db_client_connection_count", "Connections by state (idle, used).", ["pool", "state"])
idle_max = Gauge("db_client_connection_idle_max", "Idle connections that the pool retains at most.", ["pool"])
maximum = Gauge("db_client_connection_max", "Connections that the pool may open.", ["pool"])
pending_requests = Gauge("db_client_connection_pending_requests", "Callers that wait for a connection now.", ["pool"])
timeouts = Counter("db_client_connection_timeouts", "Callers that got no connection in time.", ["pool"])
wait_seconds = Histogram(
    "db_client_connection_wait_time_seconds",
    "Time to get a connection, including the time to open one.",
    ["pool"],
    buckets=_WAITS,
)
create_seconds = Histogram(
    "db_client_connection_create_time_seconds", "Time to open a connection.", ["pool"], buckets=_DURATIONS
)
use_seconds = Histogram(
    "db_client_connection_use_time_seconds",
    "Time from taking a connection to giving it back.",
    ["pool"],
    buckets=_DURATIONS,
)
operation_seconds = Histogram(
    "db_client_operation_duration_seconds",
    "Duration of statements, by their first word. `error_type` is the SQLSTATE of a failure.",
    ["operation", "error_type"],
    buckets=_DURATIONS,
)
overdue = Counter("db_client_connection_overdue", "Connections that were held longer than `overdue_after`.", ["pool"])
held_calls = Counter(
    "db_client_connection_held_calls", "Outbound calls while a connection was held.", ["pool", "dependency"]
)
