"""Webhooks: a service verifies the webhooks that it receives, and signs and repeats the webhooks that it sends.

Receiving: a verifier proves who sent a webhook, and that its body is unchanged and recent. A verifier gets the raw
body, before any parser reads the body. Each verifier is a function `(headers, body, secrets, *, now) ->
VerifiedWebhook` that raises `InvalidSignature`; `VERIFIERS` has one verifier per format. A signature with any of the
`secrets` is valid, so a secret can be rotated without losing an event. `now` is Unix time in seconds. A timestamp is
refused if it differs from `now` by more than `TOLERANCE_SECONDS`.

Sending: `sign` makes the headers of one attempt, and `decide_delivery` decides the next step after the receiver's
answer.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets as random_bits
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from prometheus_client import Counter, Histogram
from pydantic import BaseModel, ValidationError

from chassis.errors import InvalidSignature, SignatureProblem

# The receiving service counts these webhooks. `result` is a `ReceivedResult`.
webhook_received = Counter("webhook_received", "Webhooks received.", ["provider", "result"])
# The worker of the receiving service parses the bodies of stored webhooks, and counts these webhooks. `result` is a
# `ProcessedResult`.
webhook_processed = Counter("webhook_processed", "Stored webhooks that were processed.", ["provider", "result"])
webhook_ack_duration = Histogram(
    "webhook_ack_duration_seconds",
    "Time until a webhook is stored and answered.",
    ["provider"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
# The sending service counts these attempts. `result` is an `AttemptResult`.
webhook_delivery_attempts = Counter("webhook_delivery_attempts", "Attempts to deliver a webhook.", ["result"])
webhook_endpoints_disabled = Counter(
    "webhook_endpoints_disabled", "Endpoints that were disabled, by reason: gone (410) or failing.", ["reason"]
)

type ReceivedResult = Literal["accepted", "duplicate", SignatureProblem, "too_large", "too_slow", "failed"]
"""`failed`: an error prevented the storing of the webhook, so the sender will repeat the webhook."""
type ProcessedResult = Literal["published", "unknown_type", "unreadable"]

TOLERANCE_SECONDS = 300
"""The largest difference in seconds between a webhook's timestamp and the receiver's clock: the same as in the
libraries of Standard Webhooks and Stripe. The tolerance allows for clocks that differ, and bounds the time in which an
attacker can replay a webhook.
"""

_SECRET_PREFIX = "whsec_"  # noqa: S105  every secret begins with this public prefix, which is no secret itself
_MINIMUM_KEY_BYTES = 24  # Standard Webhooks prescribes 192 to 512 bits
# An id is printable ASCII without the full stop. Standard Webhooks signs `id.timestamp.body`, and a full stop in the id
# would allow two ways to split this text.
_ID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,255}")
# A timestamp has no leading zero. So the text of the parsed number equals the text that the sender has signed.
_TIMESTAMP = re.compile(r"[1-9][0-9]{0,11}")

type Headers = Sequence[tuple[str, str]]
"""Pairs of name and value, as in Starlette's `request.headers.items()`. A mapping would hide a header that came twice.
"""


@dataclass(frozen=True, slots=True)
class VerifiedWebhook:
    """A webhook with a valid signature.

    `id` is the sender's id of the webhook, which is the same in all attempts. `timestamp` is the time of this attempt
    in Unix seconds; None if the format has no timestamp.
    """

    id: str
    timestamp: int | None


class Verifier(Protocol):
    def __call__(self, headers: Headers, body: bytes, secrets: Sequence[str], *, now: float) -> VerifiedWebhook: ...


def verify(headers: Headers, body: bytes, secrets: Sequence[str], *, now: float) -> VerifiedWebhook:
    """The verifier for symmetric Standard Webhooks (v1): https://github.com/standard-webhooks/standard-webhooks.

    Signatures of other versions are skipped, as the specification requires.
    """
    webhook_id = _valid_id(_header(headers, "webhook-id"))
    timestamp = _timestamp(_header(headers, "webhook-timestamp"), now)
    given = [
        signature
        for version, _, signature in (part.partition(",") for part in _header(headers, "webhook-signature").split(" "))
        if version == "v1"
    ]
    _require_match(given, [_standard_signature(secret, webhook_id, timestamp, body) for secret in secrets])
    return VerifiedWebhook(webhook_id, timestamp)


def verify_stripe(headers: Headers, body: bytes, secrets: Sequence[str], *, now: float) -> VerifiedWebhook:
    """The verifier for Stripe: https://docs.stripe.com/webhooks#verify-manually. Stripe sends the id in the body."""
    parts = [part.strip().partition("=") for part in _header(headers, "stripe-signature").split(",")]
    times = [value for key, _, value in parts if key == "t"]
    if len(times) != 1:
        raise InvalidSignature("stripe-signature does not have exactly one time")
    timestamp = _timestamp(times[0], now)
    expected = [_hmac(_raw_key(secret), f"{timestamp}.".encode() + body).hex() for secret in secrets]
    _require_match([value for key, _, value in parts if key == "v1"], expected)
    return VerifiedWebhook(_id_in(body), timestamp)


def verify_github(headers: Headers, body: bytes, secrets: Sequence[str], *, now: float) -> VerifiedWebhook:  # noqa: ARG001  GitHub's webhooks have no time
    """The verifier for GitHub: https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries.

    GitHub signs neither the id nor a time. The receiver stores the ids of received webhooks, so a webhook that GitHub
    repeats has no second effect. The stored ids do not stop an attacker who replays a webhook, because the attacker can
    change the id.
    """
    _require_match(
        [_header(headers, "x-hub-signature-256")],
        ["sha256=" + _hmac(_raw_key(secret), body).hex() for secret in secrets],
    )
    return VerifiedWebhook(_valid_id(_header(headers, "x-github-delivery")), None)


VERIFIERS: Mapping[str, Verifier] = {"standard": verify, "stripe": verify_stripe, "github": verify_github}


def sign(
    secret: str, webhook_id: str, timestamp: int, body: bytes, *, old_secrets: Sequence[str] = ()
) -> dict[str, str]:
    """The three Standard Webhooks headers of one attempt. All attempts of a webhook have the same id, and each has its
    own `timestamp`.

    Each of the `old_secrets` adds a signature, so a receiver can switch to the new secret at any time.
    """
    if not _ID.fullmatch(webhook_id):
        raise ValueError("a webhook id is 1 to 255 printable ASCII characters without a full stop")
    signatures = [_standard_signature(key, webhook_id, timestamp, body) for key in (secret, *old_secrets)]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


type AttemptResult = Literal["delivered", "gone", "failed", "timeout", "unreachable", "refused"]
"""`delivered`: the answer was a 2xx. `gone`: the answer was a 410. `failed`: the answer had another status, or the
connection broke. `timeout`: no answer came in time. `unreachable`: no connection could be opened. `refused`:
`chassis.calls.ssrf` does not allow the address.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptAnswer:
    """The result of one attempt. `status` is None if no HTTP answer came, and `reason` is None if the webhook was
    delivered.

    `retry_after` is in seconds.
    """

    result: AttemptResult
    status: int | None = None
    reason: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class DeliveryDecision:
    """The delivery's next state, and the seconds until its next attempt if it stays `pending`."""

    state: Literal["delivered", "pending", "dead", "disabled"]
    delay: float = 0.0


def decide_delivery(
    answer: AttemptAnswer, *, attempt: int, schedule: Sequence[float], jitter: float, random: Callable[[], float]
) -> DeliveryDecision:
    """The decision after the answer to `attempt` (1, 2, …).

    A 2xx ends the delivery, and a 410 disables the endpoint. After any other answer the delivery waits for its next
    attempt, or is dead if this attempt was the last one. `schedule` has the seconds between attempts. Each wait varies
    by the share `jitter`, so deliveries that failed together do not come back together. A Retry-After can only lengthen
    the wait.
    """
    if answer.result == "delivered":
        return DeliveryDecision("delivered")
    if answer.result == "gone":
        return DeliveryDecision("disabled")
    if attempt > len(schedule):
        return DeliveryDecision("dead")
    wait = schedule[attempt - 1] * (1 + jitter * (2 * random() - 1))
    return DeliveryDecision("pending", max(wait, answer.retry_after or 0.0))


def has_failed_for_long(failing_since: datetime | None, *, now: datetime, disable_after: float) -> bool:
    """Whether an endpoint has to be disabled, because all attempts have failed for at least `disable_after` seconds.

    Call this function after a failed attempt. An endpoint without new events gets no attempts, so such an endpoint is
    never disabled.
    """
    return failing_since is not None and (now - failing_since).total_seconds() >= disable_after


def signing_key(secret: str) -> bytes:
    """The key in a Standard Webhooks secret (`whsec_` and base64 of at least 24 bytes).

    Raises ValueError for any other text. The error's message does not contain the secret. Call this function at
    start-up, so that a wrong secret stops the process at once and does not fail the first webhook.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a webhook secret is whsec_ followed by base64") from None
    if len(key) < _MINIMUM_KEY_BYTES:
        raise ValueError(f"a webhook secret has at least {_MINIMUM_KEY_BYTES} bytes")
    return key


def new_secret() -> str:
    """A secret for `sign`, from 256 random bits."""
    return _SECRET_PREFIX + base64.b64encode(random_bits.token_bytes(32)).decode()


def _standard_signature(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    return base64.b64encode(_hmac(signing_key(secret), f"{webhook_id}.{timestamp}.".encode() + body)).decode()


def _raw_key(secret: str) -> bytes:
    if not secret:
        raise ValueError("a webhook secret is not empty")
    return secret.encode()


def _hmac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, hashlib.sha256)


def _header(headers: Headers, name: str) -> str:
    """The header's only value. With two values, this verifier might check one of them while another program reads the
    other.
    """
    values = [value for key, value in headers if key.lower() == name]
    if not values:
        raise InvalidSignature(f"{name} is missing")
    if len(values) > 1:
        raise InvalidSignature(f"{name} occurs more than once")
    return values[0]


def _valid_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise InvalidSignature("the id is not 1 to 255 printable ASCII characters without a full stop")
    return text


def _id_in(body: bytes) -> str:
    """The id inside Stripe's event. Call this function only after the signature is verified."""
    try:
        return _valid_id(_Event.model_validate_json(body).id)
    except ValidationError:
        raise InvalidSignature("the body is not an event with an id") from None


class _Event(BaseModel):
    id: str


def _timestamp(text: str, now: float) -> int:
    if not _TIMESTAMP.fullmatch(text):
        raise InvalidSignature("the timestamp is not in Unix seconds")
    timestamp = int(text)
    if timestamp < now - TOLERANCE_SECONDS:
        raise InvalidSignature("the timestamp is too old", problem="stale")
    if timestamp > now + TOLERANCE_SECONDS:
        raise InvalidSignature("the timestamp is in the future", problem="future")
    return timestamp


def _require_match(given: Iterable[str], expected: Sequence[str]) -> None:
    """Raise `InvalidSignature` unless a given signature equals an expected signature. Compares in constant time."""
    if not any(hmac.compare_digest(ours.encode(), theirs.encode()) for theirs in given for ours in expected):
        raise InvalidSignature("no signature matches", problem="bad_signature")
