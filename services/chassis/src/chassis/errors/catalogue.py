"""The catalogue of API errors. Each error answer of every service has a code from this catalogue."""

from dataclasses import dataclass
from enum import Enum, unique

DOCUMENTATION_URL = "https://github.com/holdfast-platform/holdfast/blob/main/docs/reference/errors.md"


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One kind of error: its HTTP status, the message that a caller reads, and what the caller can do.

    `retry_after` is the default of the Retry-After header, in seconds. `retry_after` is None if a retry does not help.
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
    """The catalogue. A member's name is the `code` of an error answer. A released name never changes or disappears."""

    MALFORMED_REQUEST = ErrorSpec(400, "The request could not be read.", "Send valid JSON in UTF-8.")
    IDEMPOTENCY_KEY_MISSING = ErrorSpec(
        400,
        "This route needs an Idempotency-Key header of 1 to 255 characters.",
        "Send a new key, such as a UUID, with each new request, and the same key when you repeat a request.",
    )
    UNAUTHENTICATED = ErrorSpec(
        401, "A valid key is needed: Authorization: Bearer <key>.", "Send the key that you were given."
    )
    SIGNATURE_INVALID = ErrorSpec(
        401,
        "The webhook's signature does not match.",
        "Sign the raw bytes of the body with a current secret, and set your clock to within five minutes of ours.",
    )
    FORBIDDEN = ErrorSpec(403, "This key may not do this.", "Use a key with the scope that the message names.")
    NOT_FOUND = ErrorSpec(
        404,
        "There is no such resource, or your key may not read it.",
        "Check the path and the id. A retry does not help.",
    )
    METHOD_NOT_ALLOWED = ErrorSpec(
        405, "This route does not take this method.", "Use one of the methods in the answer's Allow header."
    )
    STATE_CONFLICT = ErrorSpec(
        409, "The object is in a state that does not allow this.", "Read the object again and decide anew."
    )
    IDEMPOTENCY_KEY_IN_PROGRESS = ErrorSpec(
        409,
        "The first request with this Idempotency-Key is still being answered.",
        "Repeat the request with the same key after Retry-After: you then get the answer to the first request.",
        retry_after=1,
    )
    REQUEST_TIMEOUT = ErrorSpec(
        408,
        "The request did not arrive in time.",
        "Send the request in one go, use a faster connection, or allow more time in X-Request-Timeout-Ms.",
        retry_after=1,
    )
    PAYLOAD_TOO_LARGE = ErrorSpec(413, "The body is larger than this route takes.", "Send less in one request.")
    URI_TOO_LONG = ErrorSpec(
        414, "The path and query are longer than 8 KiB.", "Shorten the query: no route needs a tenth of this length."
    )
    UNSUPPORTED_MEDIA_TYPE = ErrorSpec(
        415,
        "This route takes application/json.",
        "Send plain JSON, without Content-Encoding, and with Content-Type: application/json.",
    )
    VALIDATION_FAILED = ErrorSpec(
        422,
        "The request does not have the documented shape.",
        "Correct every field that details names: details lists all problems at once.",
    )
    IDEMPOTENCY_KEY_REUSED = ErrorSpec(
        422, "This Idempotency-Key was used before with another payload.", "Use a new key for a new request."
    )
    UNKNOWN_PRODUCT = ErrorSpec(
        422,
        "A product in this order is not in the catalogue.",
        "Read the catalogue at GET /v1/products; details names the lines with unknown products.",
    )
    MIXED_CURRENCIES = ErrorSpec(
        422,
        "The products of this order are priced in more than one currency.",
        "Place one order for each currency; details names the lines that differ from the first one.",
    )
    HEADERS_TOO_LARGE = ErrorSpec(
        431, "The request has more than 100 headers, or more than 64 KiB of headers.", "Send fewer and shorter headers."
    )
    RATE_LIMITED = ErrorSpec(
        429,
        "Too many requests: wait as long as Retry-After says.",
        "Wait. The RateLimit headers of every answer say how much is left.",
        retry_after=1,
    )
    INTERNAL_ERROR = ErrorSpec(
        500,
        "An unexpected error occurred. Quote the request_id when you report it.",
        "Report the error. The request may have had an effect, so repeat it only with the same Idempotency-Key.",
    )
    DEPENDENCY_FAILED = ErrorSpec(
        502,
        "A dependency answered with an error.",
        "Repeat the request later with the same Idempotency-Key.",
        retry_after=1,
    )
    DEPENDENCY_REJECTED = ErrorSpec(
        502,
        "A dependency refused this service's request.",
        "Report the error with the request_id: the dependency would refuse the same request again.",
    )
    DEPENDENCY_UNAVAILABLE = ErrorSpec(
        503,
        "A dependency cannot be reached now.",
        "Repeat the request after Retry-After: it had no effect.",
        retry_after=1,
    )
    OVERLOADED = ErrorSpec(
        503,
        "There is more work than capacity now.",
        "Repeat the request after Retry-After, and send fewer requests.",
        retry_after=1,
    )
    SHUTTING_DOWN = ErrorSpec(
        503,
        "This process is shutting down; another one answers.",
        "Repeat the request with the same Idempotency-Key: another process answers it.",
        retry_after=1,
    )
    DEPENDENCY_TIMEOUT = ErrorSpec(
        504,
        "A dependency did not answer in time.",
        "The request may have had its effect: repeat it later with the same Idempotency-Key.",
        retry_after=1,
    )
    DEADLINE_EXCEEDED = ErrorSpec(
        504,
        "The deadline passed before the request was done.",
        "Allow more time in X-Request-Timeout-Ms, or repeat the request with the same Idempotency-Key.",
        retry_after=1,
    )

    @classmethod
    def of_status(cls, status: int) -> "ErrorCode":
        """The catalogue's first code with this status, for errors that a framework raises with a status and without a
        code.
        """
        return next((code for code in cls if code.value.status == status), cls.INTERNAL_ERROR)

    def documentation_url(self, page: str = DOCUMENTATION_URL) -> str:
        """The address of this code's section on the errors page, which is published at `page`."""
        return f"{page}#{self.name.lower()}"


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One problem of one field. `field` is a dotted path. `received` is the value that the caller sent, or None for a
    sensitive field.
    """

    field: str
    message: str
    received: str | None = None
