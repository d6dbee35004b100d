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


def decide_claim(
    *, running: int, unended: int, concurrency: int, has_suspects: bool, is_suspect_running: bool
) -> Claim | None:
    """What may be claimed now; None: nothing, until a job ends. Pure.

    `running` handlers are at work, and of `unended` jobs the handler is done but the end not committed yet. Those are
    held to `concurrency` too: they are what a crash would repeat. All free slots are asked for at once: a round
    trip and a commit cost as much for one job as for twenty. A suspect waits until it is alone in the process.
    """
    if is_suspect_running or (has_suspects and running + unended):
        return None
    if has_suspects:
        return Claim(1, suspects=True)
    free = min(concurrency - running, 2 * concurrency - running - unended)
    return Claim(free, suspects=False) if free > 0 else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt came to, and the statement that records it."""

    outcome: Outcome
    statement: Literal["complete", "retry", "bury"]
    values: Mapping[str, float | str]


_COMPLETED = Verdict("completed", "complete", {})


def judge(job: RunningJob, error: Exception | None, delay: Callable[[], float]) -> Verdict:
    """How the attempt ends; `delay()` is the wait before another in seconds, which a Retry-After can only lengthen."""
    if error is None:
        return _COMPLETED
    reason = str(redact(f"{type(error).__name__}: {error}"))[:_MAX_REASON_LENGTH]
    if isinstance(error, PermanentJobError) or job.attempt >= job.max_attempts:
        return Verdict("dead", "bury", {"error": reason})
    asked = (isinstance(error, ApiError) and error.retry_after) or 0.0
    return Verdict("retried", "retry", {"error": reason, "delay": max(delay(), asked)})
