"""Retries: a failed call is repeated only if another attempt can succeed and may run, after a random wait, within the
budget and the deadline.

Retry in one layer only. The queue repeats a whole job, so a call inside a job makes a single attempt. Payments' calls
to the provider are the exception: many failures of the provider are over sooner than a job's backoff.

Read in this order: `decisions` (whether to repeat), `backoff` (how long to wait), `budget` (how many retries in all),
`attempts` (the loop). `deadlines` holds the time left for a request and its calls; `idempotency` makes a repeated
request safe. `chassis.calls.http_client` uses all these modules, so a service touches only `deadlines` and
`idempotency`.
"""

from chassis.retries.attempts import retry
from chassis.retries.backoff import full_jitter, parse_retry_after
from chassis.retries.budget import RetryBudget

__all__ = ["RetryBudget", "full_jitter", "parse_retry_after", "retry"]
