"""DEBUG for one request: a signed header that travels with it, through calls, jobs and events, until it expires.

`X-Holdfast-Debug: <Unix second it expires>.<HMAC-SHA256 of that, in hex>`. Each hop checks the signature for itself,
and a wrong or expired header changes nothing: whoever cannot sign cannot make a service write more than it does.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

from prometheus_client import Counter

HEADER = "X-Holdfast-Debug"

MAX_SECONDS = 900
"""A header is valid for a quarter of an hour at most, whatever it says: it is in every log of every proxy by then."""

_MAX_LENGTH = 10 + 1 + 64

debug_headers = Counter("log_debug_headers", "Headers that asked for DEBUG: accepted, expired, invalid.", ["result"])

for _result in ("accepted", "expired", "invalid"):
    debug_headers.labels(_result)

type Verdict = Literal["accepted", "expired", "invalid"]

_header: ContextVar[str | None] = ContextVar("debug_header", default=None)


def sign(key: str, *, expires: int) -> str:
    """The header's value that turns DEBUG on until `expires`, in Unix seconds."""
    signature = hmac.new(key.encode(), f"holdfast-debug.{expires}".encode(), hashlib.sha256).hexdigest()
    return f"{expires}.{signature}"


def judge(value: str, key: str | None, *, now: float) -> Verdict:
    """Whether the value was signed with the key and is still valid at `now`."""
    expires, _, _ = value.partition(".")
    is_readable = len(value) <= _MAX_LENGTH and value.isascii() and expires.isdigit()
    # Compared in constant time: how long it takes tells nobody how much of a guess was right.
    if key is None or not is_readable or not hmac.compare_digest(sign(key, expires=int(expires)), value):
        return "invalid"
    seconds_left = int(expires) - now
    if seconds_left > MAX_SECONDS:
        return "invalid"
    return "accepted" if seconds_left > 0 else "expired"


def current_header() -> str | None:
    """The header of the request at hand, to send along or store; None unless it asked for DEBUG and may."""
    return _header.get()


class DebugRequests:
    """Knows the key of this process. `clock` gives Unix seconds."""

    def __init__(self, key: str | None, clock: Callable[[], float]) -> None:
        self._key = key
        self._clock = clock

    def scope(self, value: str | None) -> AbstractContextManager[None]:
        """Write DEBUG lines inside the block if `value` is a valid header; None is none at all."""
        if value is None:
            return nullcontext()
        verdict = judge(value, self._key, now=self._clock())
        debug_headers.labels(verdict).inc()
        return _debugging(value) if verdict == "accepted" else nullcontext()


@contextmanager
def _debugging(header: str) -> Iterator[None]:
    token = _header.set(header)
    try:
        yield
    finally:
        _header.reset(token)
