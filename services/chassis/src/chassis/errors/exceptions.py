"""The exceptions that this project raises.

Each class derives from the class that it branches off:

    HoldfastError
    ├── ConfigurationError        the process does not start
    ├── IllegalTransition         a state machine refused a move
    ├── PermanentJobError         no further attempt can help this job: it becomes a dead letter
    ├── LeaseLost                 a worker tries to finish a job whose lease it has lost
    └── ApiError                  the caller gets this error as an answer, with a code of the catalogue
        ├── RateLimited           429
        ├── PoolExhausted         503: no connection became free within the pool's time-out
        │   ├── DatabaseUnreachable   503: the database cannot be used now
        │   └── DatabaseBusy          503: the database has too much work at once
        ├── DeadlineExceeded      504: the caller's deadline has passed
        ├── InvalidSignature      401: a webhook without a valid signature of its sender
        └── DependencyError       a call to a dependency failed; `outcome` says whether the call may have run
            ├── DependencyUnavailable   the call has not run: it was refused, or answered with 429
            │   ├── BreakerOpen
            │   ├── BulkheadFull
            │   └── DependencyPaused
            ├── DependencyTimeout       the call may have run: no answer in time
            ├── DependencyFailed        the call may have run: 5xx, connection reset, unreadable answer
            └── DependencyRejected      answered with a 4xx: the calling code decides what that means
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from chassis.errors.catalogue import ErrorCode, ErrorDetail

type SignatureProblem = Literal["malformed", "bad_signature", "stale", "future"]
type DependencyOutcome = Literal["not_run", "unknown", "answered"]


class HoldfastError(Exception):
    """The root of all exceptions that this project defines."""


class ConfigurationError(HoldfastError):
    """The configuration is not valid. `problems` has one line for each thing to fix, and each line names the variable
    to change.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class IllegalTransition(HoldfastError):
    """A state machine does not allow the move from `source` to `target`."""

    def __init__(self, machine: str, source: str, target: str) -> None:
        super().__init__(f"{machine} cannot move from {source} to {target}")


class PermanentJobError(HoldfastError):
    """The job can never succeed. The message of this exception becomes the dead letter's reason."""


class LeaseLost(HoldfastError):
    """The job's lease (the time for which a worker owns the job) ran out, and another worker may own the job now. So
    the worker that lost the lease must not commit anything.
    """


class ApiError(HoldfastError):
    """An error that the caller gets as an answer, with a code of the catalogue.

    `retry_after` is in seconds. The answer's Retry-After header has this number, rounded up. If `retry_after` is None,
    the header has the default of the catalogue.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        *,
        details: Sequence[ErrorDetail] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message or code.value.message)
        self.code = code
        self.message = message or code.value.message
        self.details = tuple(details)
        self.retry_after = retry_after


class RateLimited(ApiError):
    """The caller has used up its limit. The caller may try again after `retry_after` seconds."""

    def __init__(self, *, retry_after: float) -> None:
        super().__init__(ErrorCode.RATE_LIMITED, retry_after=retry_after)


class PoolExhausted(ApiError):
    """No connection became free within the pool's time-out (seconds).

    `str()` names the pool and the reason, for the log. The caller reads `message`, which contains neither the pool nor
    the reason.
    """

    def __init__(self, pool: str, timeout: float) -> None:
        super().__init__(ErrorCode.OVERLOADED, retry_after=max(1.0, timeout))
        self.args = (f"no connection of pool {pool} became free within {timeout:g} s",)


class DatabaseUnreachable(PoolExhausted):
    """The database cannot be used now: it is down, starting, read-only, or out of connections, memory or disk.

    A commit that was under way may have succeeded.
    """

    def __init__(self, pool: str, reason: str) -> None:
        ApiError.__init__(self, ErrorCode.DEPENDENCY_UNAVAILABLE, "The database cannot be used now.")
        self.args = (f"database: pool {pool}: {reason}",)


class DatabaseBusy(PoolExhausted):
    """The database server ended a statement that waited too long for a lock, took too long, or met a deadlock.

    The statement's transaction was not committed.
    """

    def __init__(self, pool: str, reason: str) -> None:
        ApiError.__init__(self, ErrorCode.OVERLOADED, retry_after=1)
        self.args = (f"database: pool {pool}: {reason}",)


class DeadlineExceeded(ApiError):
    """The caller's deadline has passed. The next step of the request was not started."""

    def __init__(self, what: str) -> None:
        super().__init__(ErrorCode.DEADLINE_EXCEEDED, f"The deadline passed before {what}.")


class InvalidSignature(ApiError):
    """The webhook is not authentic: its signature is wrong, missing or malformed, or its time is out of tolerance.

    `problem` is the kind of problem, which is also the label of a metric. `reason` is the text that the sender reads.
    """

    def __init__(self, reason: str, *, problem: SignatureProblem = "malformed") -> None:
        super().__init__(ErrorCode.SIGNATURE_INVALID, f"The webhook was refused: {reason}.")
        self.problem: SignatureProblem = problem


class DependencyError(ApiError):
    """A call to `dependency` did not succeed.

    `outcome` is "not_run" (the call has had no effect), "unknown" (the call may have an effect, now or later) or
    "answered" (the dependency refused the call with a 4xx). `status` is the HTTP status of the answer, or None without
    an answer. `body` has the answer's raw bytes. `answered_as` is the error code that our own caller gets.
    """

    answered_as: ClassVar[ErrorCode]
    outcome: ClassVar[DependencyOutcome]

    def __init__(
        self,
        dependency: str,
        reason: str,
        *,
        status: int | None = None,
        body: bytes = b"",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(self.answered_as, f"{dependency}: {reason}", retry_after=retry_after)
        self.dependency = dependency
        self.reason = reason
        self.status = status
        self.body = body

    @property
    def is_refusal(self) -> bool:
        """Whether the dependency takes no calls for now, although neither side has failed: the answer is a 429, or a
        503 with Retry-After.
        """
        return self.status == 429 or (self.status == 503 and self.retry_after is not None)  # noqa: PLR2004


class DependencyUnavailable(DependencyError):
    """The call has not run: connection refused, unknown host, an answer of 429, or no request was sent."""

    answered_as = ErrorCode.DEPENDENCY_UNAVAILABLE
    outcome = "not_run"


class BreakerOpen(DependencyUnavailable):
    """The circuit breaker refused the call. The breaker admits a trial call after `retry_after` seconds."""

    def __init__(self, dependency: str, *, retry_after: float) -> None:
        super().__init__(dependency, "circuit breaker is open", retry_after=retry_after)


class BulkheadFull(DependencyUnavailable):
    """The bulkhead refused the call: the allowed number of calls to this dependency is under way already."""

    def __init__(self, dependency: str, limit: int) -> None:
        super().__init__(dependency, f"{limit} calls are under way already", retry_after=1.0)


class DependencyPaused(DependencyUnavailable):
    """The call was not sent, because the dependency refuses calls for now, or because our limit of calls to the
    dependency is used up. A call may be sent after `retry_after` seconds.
    """

    def __init__(self, dependency: str, *, retry_after: float) -> None:
        super().__init__(dependency, "calls are paused", retry_after=retry_after)

    @property
    def is_refusal(self) -> bool:
        return True


class DependencyTimeout(DependencyError):
    """There was no answer within the time-out (seconds). The call may have run, or may run later.

    `cut_short` is True if the caller's deadline ended the attempt before the usual time-out.
    """

    answered_as = ErrorCode.DEPENDENCY_TIMEOUT
    outcome = "unknown"

    def __init__(self, dependency: str, timeout: float, *, cut_short: bool = False) -> None:
        super().__init__(dependency, f"no answer within {timeout:.3g} s")
        self.cut_short = cut_short


class DependencyFailed(DependencyError):
    """The answer was a 5xx or unreadable, or the connection was lost after the request was sent."""

    answered_as = ErrorCode.DEPENDENCY_FAILED
    outcome = "unknown"


class DependencyRejected(DependencyError):
    """The dependency answered with a 4xx other than 429. `status` and `body` are those of this answer, which states the
    reason.
    """

    answered_as = ErrorCode.DEPENDENCY_REJECTED
    outcome = "answered"

    def __init__(self, dependency: str, status: int, body: bytes) -> None:
        super().__init__(dependency, f"answered {status}", status=status, body=body)
