"""Background jobs on PostgreSQL: a job is enqueued in the caller's transaction, and runs until one worker completes it.

A worker claims a job with a lease, which reserves the job for some seconds, and extends the lease with a heartbeat.
Each claim increases the job's attempt number, which also serves as a fencing token. If a worker loses its lease and
another worker claims the job, the first worker's token is out of date, so the first worker cannot complete the job. A
job may run more than once. But the changes that a handler makes in the transaction of `RunningJob.complete_in` commit
together with the job's end, so they happen exactly once.

A service imports the names in `__all__`, and `schedules` for recurring work. Read the modules in this order:

1. `payload`, `enqueueing` and `running_job` are the parts that a service uses. `live_jobs` lets a sweep (a periodic
   search for stuck rows) avoid duplicate jobs.
2. `jobs.sql` contains and explains every statement.
3. `decisions` and `runner` show how a worker claims, runs and ends jobs. The runner's parts are `hearing` (new jobs),
   `claims` (which jobs to claim next), `lookback` (how far back a claim looks), `runs` (claimed jobs), `executor` (one
   attempt), `completion` (finished jobs), `leases` (the heartbeat) and `tending` (expired leases, measurements of the
   queue).
4. `dead_letters` and `routes` are for operators, and `schedules` runs recurring work.
"""

from chassis.jobs.enqueueing import enqueue, job_row
from chassis.jobs.live_jobs import DEAD_PAUSE, has_live_job
from chassis.jobs.payload import JobOptions, JobPayload
from chassis.jobs.running_job import Handler, RunningJob

__all__ = [
    "DEAD_PAUSE",
    "Handler",
    "JobOptions",
    "JobPayload",
    "RunningJob",
    "enqueue",
    "has_live_job",
    "job_row",
]
