"""The runner's decisions, pure: what may be claimed now, and what an attempt came to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from chassis.errors import ApiError, PermanentJobError
from chassis.jobs import RunningJob
from chassis.logging import redact

type Outcome = Literal["completed", "retried", "dead", "lease_lost", "handed_back"]

_MAX_REASON_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class Claim:
    """What to ask the queue for."""

    count: int
    suspects: bool


NOTHING = Claim(0, suspects=False)


def decide_claim(*, unended: int, concurrency: int, has_suspects: bool, is_suspect_running: bool) -> Claim:
    """What may be claimed now; `NOTHING` until a job ends. Pure.

    `unended` jobs are claimed, and their end neither is committed nor will be by the statement that claims: they are
    what a crash would repeat. All free slots are asked for at once: a round trip and a commit cost as much for one job
    as for twenty. A suspect waits until it is alone in the process.
    """
    if is_suspect_running or (has_suspects and unended):
        return NOTHING
    if has_suspects:
        return Claim(1, suspects=True)
    return Claim(concurrency - unended, suspects=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed attempt came to, and the statement that records it."""

    outcome: Outcome
    statement: Literal["retry", "bury"]
    values: Mapping[str, float | str]


def judge(job: RunningJob, error: Exception, delay: Callable[[], float]) -> Verdict:
    """How the attempt ends; `delay()` is the wait before another in seconds, which a Retry-After can only lengthen."""
    reason = str(redact(f"{type(error).__name__}: {error}"))[:_MAX_REASON_LENGTH]
    if isinstance(error, PermanentJobError) or job.attempt >= job.max_attempts:
        return Verdict("dead", "bury", {"error": reason})
    asked = (isinstance(error, ApiError) and error.retry_after) or 0.0
    return Verdict("retried", "retry", {"error": reason, "delay": max(delay(), asked)})
