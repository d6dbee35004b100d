"""A worker's decisions as pure functions: which jobs it may claim now, and how a failed attempt ends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from chassis.errors import ApiError, DatabaseUnreachable, DependencyError, PermanentJobError
from chassis.jobs.running_job import RunningJob
from chassis.logging import redact

type Outcome = Literal["completed", "retried", "dead", "lease_lost", "handed_back", "postponed"]

_MAX_REASON_LENGTH = 2000
MAX_GRANTED_ATTEMPT = 500
"""An attempt that fails in an outage of the database does not count towards `max_attempts`, if the attempt's number is
below this limit. With the default backoff, a job reaches the limit after about four hours. The limit exists for a job
that itself causes the outage: such a job becomes a dead letter."""

DEFAULT_PAUSE = 1.0
"""The seconds for which a worker claims no job after a dependency has refused a call for now without saying how
long.
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of up to `count` jobs, which takes either suspects (jobs whose lease expired) or other jobs.

    `alone` selects the suspects that may run only while no other job runs in the process.
    """

    count: int
    suspects: bool = False
    alone: bool = False


NOTHING = Claim(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Which kinds of jobs may be due in the queue, as far as the worker knows."""

    others: bool
    suspects: bool
    lone_suspects: bool


def decide_claim(*, unended: int, concurrency: int, due: Due, running: Claim | None, is_others_turn: bool) -> Claim:
    """The next claim, or `NOTHING` if no further job may start now.

    `unended` is the number of claimed jobs whose end is neither committed nor part of this claim's statement: a crash
    would repeat these jobs. The claim asks for as many jobs as the worker has free slots, since a round trip and a
    commit cost as much for one job as for twenty.

    A suspect is a job whose lease expired: the job may have killed the process that ran it. `running` is the claim of
    the suspect that runs now, or None. Only one suspect runs at a time, so a crash makes at most one suspect lose a
    second lease. A suspect that lost two leases waits until it can run alone in the process. `is_others_turn` is true
    after a suspect has started, so that a worker with a single slot alternates between suspects and other jobs.
    """
    free = concurrency - unended
    others = Claim(free) if due.others else NOTHING
    if running is not None and running.alone:
        return NOTHING
    if is_others_turn and due.others:
        return others
    if due.lone_suspects:
        return NOTHING if unended else Claim(1, suspects=True, alone=True)
    if due.suspects and running is None and free:
        return Claim(1, suspects=True)
    return others


@dataclass(frozen=True, slots=True)
class FailureDecision:
    """The outcome of a failed attempt, and the statement of `jobs.sql` that records this outcome.

    `pause` is the seconds in which the worker claims no job of the queue.
    """

    outcome: Outcome
    statement: Literal["retry", "bury", "hand_back"]
    values: Mapping[str, float | str]
    pause: float = 0.0


def decide_failure(job: RunningJob, error: Exception, delay: Callable[[], float]) -> FailureDecision:
    """Decide whether the job is retried or becomes a dead letter.

    `delay()` returns the backoff in seconds. If the error has a longer Retry-After, the retry waits that long instead.

    An attempt that fails because the service's database is unreachable does not use up one of the job's attempts. An
    attempt that fails because the database is busy counts, since a slow statement of the job may be the cause.

    An attempt does not count either if a dependency refuses calls for now (for example, with a 429). The job goes back
    to its position in the queue, and the queue pauses. Without the pause, a later job, which needs the same dependency,
    would overtake this job.
    """
    reason = str(redact(f"{type(error).__name__}: {error}"))[:_MAX_REASON_LENGTH]
    if isinstance(error, DependencyError) and error.is_refusal and job.attempt < MAX_GRANTED_ATTEMPT:
        return FailureDecision("postponed", "hand_back", {}, pause=error.retry_after or DEFAULT_PAUSE)
    granted = int(isinstance(error, DatabaseUnreachable) and job.attempt < MAX_GRANTED_ATTEMPT)
    if isinstance(error, PermanentJobError) or job.attempt >= job.max_attempts + granted:
        return FailureDecision("dead", "bury", {"error": reason})
    retry_after = (isinstance(error, ApiError) and error.retry_after) or 0.0
    backoff = max(delay(), retry_after)
    return FailureDecision("retried", "retry", {"error": reason, "delay": backoff, "granted": granted})
