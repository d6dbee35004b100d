"""DEBUG for one request: a signed header travels with the request through calls, jobs and events, until the header
expires.

The header is `X-Holdfast-Debug: <Unix second at which it expires>.<HMAC-SHA256 of that second, in hex>`. Each service
checks the signature. A wrong or expired header has no effect, so a caller without the key cannot make a service write
more lines.
"""

import hashlib
import hmac
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Literal

from prometheus_client import Counter

from chassis.fast.contextmanager import contextmanager

HEADER = "X-Holdfast-Debug"

MAX_SECONDS = 900
"""The longest validity of a signed header, in seconds. The validity is short, because proxies may log the header, and a
reader of such a log could send the header again.
"""

_MAX_LENGTH = 10 + 1 + 64

debug_headers = Counter(
    "log_debug_headers", "Headers that request DEBUG, by result: accepted, expired, invalid.", ["result"]
)

for _result in ("accepted", "expired", "invalid"):
    debug_headers.labels(_result)

type HeaderCheck = Literal["accepted", "expired", "invalid"]

_header: ContextVar[str | None] = ContextVar("debug_header", default=None)


def sign(key: str, *, expires: int) -> str:
    """The header's value that turns DEBUG on until `expires`, in Unix seconds."""
    signature = hmac.new(key.encode(), f"holdfast-debug.{expires}".encode(), hashlib.sha256).hexdigest()
    return f"{expires}.{signature}"


def check_header(value: str, key: str | None, *, now: float) -> HeaderCheck:
    """Whether the value was signed with the key and is still valid at `now`."""
    expires, _, _ = value.partition(".")
    is_readable = len(value) <= _MAX_LENGTH and value.isascii() and expires.isdigit()
    # A comparison in constant time does not reveal how much of a guess is right.
    if key is None or not is_readable or not hmac.compare_digest(sign(key, expires=int(expires)), value):
        return "invalid"
    seconds_left = int(expires) - now
    if seconds_left > MAX_SECONDS:
        return "invalid"
    return "accepted" if seconds_left > 0 else "expired"


def current_header() -> str | None:
    """The header of the current request, to send with calls or store with jobs. The result is None if the request has
    no valid header.
    """
    return _header.get()


class DebugRequests:
    """Checks the headers of requests with the key of this process. `clock` returns Unix seconds."""

    def __init__(self, key: str | None, clock: Callable[[], float]) -> None:
        self._key = key
        self._clock = clock

    def scope(self, value: str | None) -> AbstractContextManager[None]:
        """Write DEBUG lines inside the block if `value` is a valid header. `value` is None if the request has no
        header.
        """
        if value is None:
            return nullcontext()
        result = check_header(value, self._key, now=self._clock())
        debug_headers.labels(result).inc()
        return _debugging(value) if result == "accepted" else nullcontext()


@contextmanager
def _debugging(header: str) -> Generator[None]:
    token = _header.set(header)
    try:
        yield
    finally:
        _header.reset(token)
