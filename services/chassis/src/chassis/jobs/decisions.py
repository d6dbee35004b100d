"""The runner's decisions, pure: what may be claimed now, and what an attempt came to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from chassis.errors import ApiError, DatabaseUnreachable, PermanentJobError
from chassis.jobs import RunningJob
from chassis.logging import redact

type Outcome = Literal["completed", "retried", "dead", "lease_lost", "handed_back"]

_MAX_REASON_LENGTH = 2000
MAX_GRANTED_ATTEMPT = 500
"""Up to this attempt an outage is not counted: four hours at the longest default backoff. A job that causes the outage
itself dies in the end."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What to ask the queue for. `alone`: a suspect that runs with nothing beside it."""

    count: int
    suspects: bool = False
    alone: bool = False


NOTHING = Claim(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What the queue may have for a worker, as far as it knows."""

    others: bool
    suspects: bool
    lone_suspects: bool


def decide_claim(*, unended: int, concurrency: int, due: Due, running: Claim | None, is_others_turn: bool) -> Claim:
    """What may be claimed now; `NOTHING` until a job ends. Pure.

    `unended` jobs are claimed, and their end neither is committed nor will be by the statement that claims: they are
    what a crash would repeat. All free slots are asked for at once: a round trip and a commit cost as much for one job
    as for twenty.

    `running` is the claim of the suspect that runs now. One suspect runs at a time, so a crash makes at most one job
    lose a second lease; that job then waits until it is alone in the process. After each suspect it `is_others_turn`,
    for a worker with a single slot.
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
class Verdict:
    """What a failed attempt came to, and the statement that records it."""

    outcome: Outcome
    statement: Literal["retry", "bury"]
    values: Mapping[str, float | str]


def judge(job: RunningJob, error: Exception, delay: Callable[[], float]) -> Verdict:
    """How the attempt ends; `delay()` is the wait before another in seconds, which a Retry-After can only lengthen.

    An outage of the service's own database is not the job's fault, so that attempt is granted anew. A database that is
    busy counts: it may be the job's own statement that takes too long.
    """
    reason = str(redact(f"{type(error).__name__}: {error}"))[:_MAX_REASON_LENGTH]
    granted = int(isinstance(error, DatabaseUnreachable) and job.attempt < MAX_GRANTED_ATTEMPT)
    if isinstance(error, PermanentJobError) or job.attempt >= job.max_attempts + granted:
        return Verdict("dead", "bury", {"error": reason})
    asked = (isinstance(error, ApiError) and error.retry_after) or 0.0
    return Verdict("retried", "retry", {"error": reason, "delay": max(delay(), asked), "granted": granted})
