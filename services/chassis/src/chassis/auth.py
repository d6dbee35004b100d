"""Authentication: `Authorization: Bearer <key>`, for clients and for services alike.

Keys are 256 random bits, kept only as HMAC-SHA256 under a pepper: a slow hash protects guessable passwords, which
these are not, and whoever reads the hashes without the pepper cannot even tell whether a key is one of them. Peppers,
keys and who has them may change while the process runs; several peppers and several keys of one principal are valid
at once, so that each can be replaced without a gap.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from chassis.errors import ApiError, ErrorCode
from chassis.settings import AuthSettings


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the id that its key stands for."""

    id: str


class Authenticator:
    """Knows the principals of one service; `current` returns the settings that are valid now."""

    def __init__(self, current: Callable[[], AuthSettings]) -> None:
        self._current = current

    def authenticate(self, authorization: str | None) -> Principal:
        """The principal that the header's key belongs to; raises `ApiError` (401) without a valid one."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(ErrorCode.UNAUTHENTICATED)
        principal = _find(key.strip(), self._current())
        if principal is None:
            raise ApiError(ErrorCode.UNAUTHENTICATED)
        return Principal(principal)


def _find(key: str, settings: AuthSettings) -> str | None:
    """Every hash is compared, in constant time each: how long it takes says nothing of which one matched."""
    digests = [hash_key(key, pepper.get_secret_value()) for pepper in settings.peppers]
    found = None
    for principal, known in settings.keys.items():
        for one in known:
            for digest in digests:
                if hmac.compare_digest(digest, one.get_secret_value()):
                    found = principal
    return found


def hash_key(key: str, pepper: str) -> str:
    """How a key is kept: its HMAC-SHA256 under the pepper, both as UTF-8, in hex."""
    return hmac.digest(pepper.encode(), key.encode(), hashlib.sha256).hex()
