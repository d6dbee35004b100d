"""Background jobs on PostgreSQL: enqueued in the caller's transaction, run at least once, completed by one worker.

A worker claims a job with a lease and extends the lease with a heartbeat. A claim counts the attempt, and the attempt's
number is the fencing token. A worker that lost its lease has an old token, and cannot complete the job. Changes that a
handler makes in the transaction of `RunningJob.complete_in` commit together with the job's end, so those effects happen
exactly once.

A service imports the names in `__all__`, and `schedules` for recurring work. Read in this order:

1. `payload`, `enqueueing`, `running_job`: a job as a service sees it. `live_jobs` lets a sweep avoid duplicate jobs.
2. `jobs.sql`: every statement, with an explanation.
3. `decisions`, then `runner`: how a worker claims, runs and ends jobs. The runner's parts are `claims` (what to claim
   next), `runs` (claimed jobs), `executor` (one attempt), `completion` (finished jobs), `leases` (the heartbeat) and
   `tending` (expired leases, measurements).
4. `dead_letters` and `routes`: functions for operators. `backlog` refuses work above a limit, and `schedules` runs
   recurring work.
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
