"""Retries: a failed call is repeated only if another attempt can succeed and cannot have a second effect.

Before each repetition, the process waits for a random time. The retry budget bounds the number of repetitions, and the
deadline bounds the time of all attempts.

Retry in one layer only, because the attempts of several layers multiply. The job queue repeats a whole job, so a call
inside a job makes a single attempt. Payments' calls to the payment provider are the exception. A job repeats such a
call itself, because many failures of the provider end sooner than a job's backoff.

Read in this order: `decisions` (whether to repeat), `backoff` (how long to wait), `budget` (how many retries in all),
`attempts` (the loop). `deadlines` holds the time left for a request and its calls, and `idempotency` makes a repeated
request safe. A service uses only `deadlines` and `idempotency` directly. `chassis.calls.http_client` uses the other
modules.
"""

from chassis.retries.attempts import retry
from chassis.retries.backoff import full_jitter, parse_retry_after
from chassis.retries.budget import RetryBudget

__all__ = ["RetryBudget", "full_jitter", "parse_retry_after", "retry"]
