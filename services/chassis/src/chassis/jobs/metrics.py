"""The metrics of attempts at jobs."""

from prometheus_client import Counter, Histogram

processed = Counter("jobs_processed", "Attempts that ended, by outcome.", ["queue", "job", "outcome"])
duration_seconds = Histogram(
    "job_duration_seconds",
    "Time from the claim of a job to the end of the attempt.",
    ["queue", "job"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
pick_up_seconds = Histogram(
    "job_pick_up_seconds",
    "Time from the due time of a job until a worker claimed the job.",
    ["queue"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
