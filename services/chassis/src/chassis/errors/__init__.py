"""API errors: the exception tree and the catalogue every error answer comes from.

    HoldfastError
    ├── ConfigurationError        the process does not start
    ├── IllegalTransition         a state machine refused a move
    ├── PermanentJobError         a job that no further attempt can save: it goes to the dead letters
    ├── LeaseLost                 a worker finishes a job that is no longer its own
    └── ApiError                  answered to the caller in the envelope, by its catalogue code
        ├── RateLimited           429
        ├── PoolExhausted         503: no connection within the pool's time-out
        │   ├── DatabaseUnreachable   503: the database cannot be used now
        │   └── DatabaseBusy          503: it had too much to do at once
        ├── DeadlineExceeded      504: the caller's time is spent
        ├── InvalidSignature      401: a webhook that its sender did not sign
        └── DependencyError       a call to a dependency failed; `outcome` says whether it can have run
            ├── DependencyUnavailable   known not to have run: refused, 429
            │   ├── BreakerOpen
            │   └── BulkheadFull
            ├── DependencyTimeout       unknown
            ├── DependencyFailed        unknown: 5xx, reset, an answer that cannot be read
            └── DependencyRejected      answered with a 4xx: the caller decides what that means

`chassis.errors.answers` decides what a caller gets for an `ApiError`. `chassis.app.api` sends, logs and counts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Literal

DOCUMENTATION_URL = "https://github.com/holdfast-platform/holdfast/blob/main/docs/reference/errors.md"

type SignatureProblem = Literal["malformed", "bad_signature", "stale", "future"]
type CallOutcome = Literal["not_run", "unknown", "answered"]


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One kind of error: its HTTP status, the message a caller reads, and what to do.

    `retry_after` is how many seconds to wait where nothing better is known; None: repeating does not help.
    """

    status: int
    message: str
    remedy: str
    retry_after: int | None = None

    @property
    def retryable(self) -> bool:
        return self.retry_after is not None


@unique
class ErrorCode(Enum):
    """The catalogue. The member's name is the stable `code` of the envelope; a released name never goes away."""

    MALFORMED_REQUEST = ErrorSpec(400, "The request could not be read.", "Send valid JSON in UTF-8.")
    IDEMPOTENCY_KEY_MISSING = ErrorSpec(
        400,
        "This route needs an Idempotency-Key header of 1 to 255 characters.",
        "Send a new key, such as a UUID, with each new request, and the same one when you repeat it.",
    )
    UNAUTHENTICATED = ErrorSpec(
        401, "A valid key is needed: Authorization: Bearer <key>.", "Send the key that you were given."
    )
    SIGNATURE_INVALID = ErrorSpec(
        401,
        "The webhook's signature does not match.",
        "Sign the body's raw bytes with a current secret, and check the clock: five minutes off is too much.",
    )
    FORBIDDEN = ErrorSpec(403, "This key may not do this.", "Use a key that may.")
    NOT_FOUND = ErrorSpec(
        404, "There is nothing here, or it is not yours to see.", "Check the path and the id. Repeating does not help."
    )
    METHOD_NOT_ALLOWED = ErrorSpec(
        405, "This route does not take this method.", "Use one of the methods in the answer's Allow header."
    )
    STATE_CONFLICT = ErrorSpec(
        409, "The object is in a state that does not allow this.", "Read it again and decide anew."
    )
    IDEMPOTENCY_KEY_IN_PROGRESS = ErrorSpec(
        409,
        "The first request with this Idempotency-Key is still being answered.",
        "Repeat the request with the same key after Retry-After: you get the first one's answer.",
        retry_after=1,
    )
    REQUEST_TIMEOUT = ErrorSpec(
        408,
        "The request did not arrive within its time.",
        "Send it at once, over a faster connection, or allow more time in X-Request-Timeout-Ms.",
        retry_after=1,
    )
    PAYLOAD_TOO_LARGE = ErrorSpec(413, "The body is larger than this route takes.", "Send less in one request.")
    URI_TOO_LONG = ErrorSpec(
        414, "The path and query are longer than 8 KiB.", "Ask for less at once: no route needs a tenth of it."
    )
    UNSUPPORTED_MEDIA_TYPE = ErrorSpec(
        415,
        "This route takes application/json.",
        "Send JSON as it is, without Content-Encoding, and say so in Content-Type.",
    )
    VALIDATION_FAILED = ErrorSpec(
        422, "The request does not have the documented shape.", "Correct every field in details; all are named at once."
    )
    IDEMPOTENCY_KEY_REUSED = ErrorSpec(
        422, "This Idempotency-Key was used before with another payload.", "Use a new key for a new request."
    )
    UNKNOWN_PRODUCT = ErrorSpec(
        422, "A product in this order is not in the catalogue.", "Read GET /v1/products; details names the lines."
    )
    MIXED_CURRENCIES = ErrorSpec(
        422,
        "The products of this order are priced in more than one currency.",
        "Place one order for each currency; details names the lines that differ from the first one.",
    )
    HEADERS_TOO_LARGE = ErrorSpec(
        431, "The request's headers are larger than 64 KiB, or more than 100.", "Send fewer and shorter headers."
    )
    RATE_LIMITED = ErrorSpec(
        429,
        "Too many requests: wait as long as Retry-After says.",
        "Wait. The RateLimit headers of every answer tell how much is left.",
        retry_after=1,
    )
    INTERNAL_ERROR = ErrorSpec(
        500,
        "Something failed here. Quote the request_id when you report it.",
        "Report it. Whether it had an effect is unknown: repeat it only with the same Idempotency-Key.",
    )
    DEPENDENCY_FAILED = ErrorSpec(
        502, "A dependency answered with an error.", "Repeat it later with the same Idempotency-Key.", retry_after=1
    )
    DEPENDENCY_REJECTED = ErrorSpec(
        502,
        "A dependency refused what this service asked of it.",
        "Report it with the request_id: the same request is refused again.",
    )
    DEPENDENCY_UNAVAILABLE = ErrorSpec(
        503, "A dependency cannot be reached now.", "Repeat it after Retry-After: nothing was done.", retry_after=1
    )
    OVERLOADED = ErrorSpec(
        503, "There is more work than capacity now.", "Repeat it after Retry-After, more slowly.", retry_after=1
    )
    SHUTTING_DOWN = ErrorSpec(
        503,
        "This process is going away; another one answers.",
        "Repeat it with the same Idempotency-Key: another process takes it.",
        retry_after=1,
    )
    DEPENDENCY_TIMEOUT = ErrorSpec(
        504,
        "A dependency did not answer in time.",
        "It may have had its effect: repeat it later with the same Idempotency-Key.",
        retry_after=1,
    )
    DEADLINE_EXCEEDED = ErrorSpec(
        504,
        "The request's deadline passed before it was done.",
        "Allow more time in X-Request-Timeout-Ms, or repeat it with the same Idempotency-Key.",
        retry_after=1,
    )

    @classmethod
    def of_status(cls, status: int) -> "ErrorCode":
        """The code of what a framework raises by status alone: the catalogue's first one with it."""
        return next((code for code in cls if code.value.status == status), cls.INTERNAL_ERROR)

    def documentation_url(self, page: str = DOCUMENTATION_URL) -> str:
        """The code's section of the errors page, wherever that is published."""
        return f"{page}#{self.name.lower()}"


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One thing wrong with one field. `field` is a dotted path; `received` is left out for sensitive fields."""

    field: str
    message: str
    received: str | None = None


class HoldfastError(Exception):
    """The root of everything this project raises by itself."""


class ConfigurationError(HoldfastError):
    """The configuration is not valid; `problems` has one line for each thing to fix, naming its variable."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class IllegalTransition(HoldfastError):
    """A state machine was asked for a move it does not have."""

    def __init__(self, machine: str, source: str, target: str) -> None:
        super().__init__(f"{machine} cannot move from {source} to {target}")


class PermanentJobError(HoldfastError):
    """The job can never succeed; its message is kept as the dead letter's reason."""


class LeaseLost(HoldfastError):
    """The job's lease ran out and somebody else may own it now: nothing of this run may be committed."""


class ApiError(HoldfastError):
    """An error that the caller gets to see, by its catalogue code.

    `retry_after` is in seconds and becomes the Retry-After header, rounded up; None: the catalogue's.
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
    """The caller has used up what its tier allows, for `retry_after` seconds."""

    def __init__(self, *, retry_after: float) -> None:
        super().__init__(ErrorCode.RATE_LIMITED, retry_after=retry_after)


class PoolExhausted(ApiError):
    """No connection became free within the pool's time-out (seconds).

    Which pool, and why, is for the log: `str` of it says so, `message` does not.
    """

    def __init__(self, pool: str, timeout: float) -> None:
        super().__init__(ErrorCode.OVERLOADED, retry_after=max(1.0, timeout))
        self.args = (f"no connection of pool {pool} became free within {timeout:g} s",)


class DatabaseUnreachable(PoolExhausted):
    """The database cannot be used now: it is away, starting, read-only, or out of slots, memory or disk.

    What the caller was about to commit may have been committed.
    """

    def __init__(self, pool: str, reason: str) -> None:
        ApiError.__init__(self, ErrorCode.DEPENDENCY_UNAVAILABLE, "The database cannot be used now.")
        self.args = (f"database: pool {pool}: {reason}",)


class DatabaseBusy(PoolExhausted):
    """A statement waited too long for a lock, took too long, or met a deadlock: the server has ended it.

    Nothing was committed.
    """

    def __init__(self, pool: str, reason: str) -> None:
        ApiError.__init__(self, ErrorCode.OVERLOADED, retry_after=1)
        self.args = (f"database: pool {pool}: {reason}",)


class DeadlineExceeded(ApiError):
    """The time that the caller granted is spent; nothing further was started."""

    def __init__(self, what: str) -> None:
        super().__init__(ErrorCode.DEADLINE_EXCEEDED, f"The deadline passed before {what}.")


class InvalidSignature(ApiError):
    """The webhook is not authentic: a wrong, missing or badly formed signature, or a time out of tolerance.

    `problem` is which of these, for metrics; the sender is told `reason`.
    """

    def __init__(self, reason: str, *, problem: SignatureProblem = "malformed") -> None:
        super().__init__(ErrorCode.SIGNATURE_INVALID, f"The webhook was refused: {reason}.")
        self.problem: SignatureProblem = problem


class DependencyError(ApiError):
    """A call to `dependency` did not succeed.

    `outcome` is "not_run" (the call is known not to have had an effect), "unknown" (it may have had one, now or
    later) or "answered". `status` is the HTTP status when there was an answer, `body` its raw bytes.
    """

    def __init__(
        self,
        dependency: str,
        reason: str,
        *,
        code: ErrorCode,
        outcome: CallOutcome,
        status: int | None = None,
        body: bytes = b"",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, f"{dependency}: {reason}", retry_after=retry_after)
        self.dependency = dependency
        self.reason = reason
        self.outcome: CallOutcome = outcome
        self.status = status
        self.body = body


class DependencyUnavailable(DependencyError):
    """The call is known not to have run: connection refused, no such host, 429, or not sent at all."""

    def __init__(
        self, dependency: str, reason: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(
            dependency,
            reason,
            code=ErrorCode.DEPENDENCY_UNAVAILABLE,
            outcome="not_run",
            status=status,
            retry_after=retry_after,
        )


class BreakerOpen(DependencyUnavailable):
    """The circuit breaker refused the call; `retry_after` is the time until it lets one try, in seconds."""

    def __init__(self, dependency: str, *, retry_after: float) -> None:
        super().__init__(dependency, "circuit breaker is open", retry_after=retry_after)


class BulkheadFull(DependencyUnavailable):
    """As many calls to this dependency as allowed are under way already."""

    def __init__(self, dependency: str, limit: int) -> None:
        super().__init__(dependency, f"{limit} calls are under way already", retry_after=1.0)


class DependencyTimeout(DependencyError):
    """No answer within the time-out (seconds); the call may have run or may run later.

    `cut_short`: the caller's deadline ended it before the dependency had the time that its policy grants.
    """

    def __init__(self, dependency: str, timeout: float, *, cut_short: bool = False) -> None:
        super().__init__(
            dependency,
            f"no answer within {timeout:.3g} s",
            code=ErrorCode.DEPENDENCY_TIMEOUT,
            outcome="unknown",
        )
        self.cut_short = cut_short


class DependencyFailed(DependencyError):
    """A 5xx, a connection lost after the request was sent, or an answer that cannot be read."""

    def __init__(
        self, dependency: str, reason: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(
            dependency,
            reason,
            code=ErrorCode.DEPENDENCY_FAILED,
            outcome="unknown",
            status=status,
            retry_after=retry_after,
        )


class DependencyRejected(DependencyError):
    """The dependency answered with a 4xx other than 429: `status` and `body` say what it found wrong."""

    def __init__(self, dependency: str, status: int, body: bytes) -> None:
        super().__init__(
            dependency,
            f"answered {status}",
            code=ErrorCode.DEPENDENCY_REJECTED,
            outcome="answered",
            status=status,
            body=body,
        )
