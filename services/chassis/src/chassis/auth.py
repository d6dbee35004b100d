"""Authentication: `Authorization: Bearer <key>`, for clients and for services alike.

Keys are 256 random bits, kept only as a hash that names its kind: a slow one protects guessable passwords, which these
are not. `hmac-sha256:…`, under a pepper: whoever reads it cannot even tell whether a key belongs to it. `sha256:…`: all
that Helm's templates can make of a generated key. Peppers, keys and who has them may change while the process runs;
several peppers and several keys of one principal are valid at once, so that each can be replaced without a gap.
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
        scheme, _, given = (authorization or "").partition(" ")
        key = given.strip()
        if scheme.lower() != "bearer" or not key:
            raise ApiError(ErrorCode.UNAUTHENTICATED)
        principal = _find(key, self._current())
        if principal is None:
            raise ApiError(ErrorCode.UNAUTHENTICATED)
        return Principal(principal)


def _find(key: str, settings: AuthSettings) -> str | None:
    """Every hash is compared, in constant time each: how long it takes says nothing of which one matched."""
    hashes = [hash_key(key), *(hash_key(key, pepper.get_secret_value()) for pepper in settings.peppers)]
    found = None
    for principal, known in settings.keys.items():
        for one in known:
            for hashed in hashes:
                if hmac.compare_digest(hashed, one.get_secret_value()):
                    found = principal
    return found


def hash_key(key: str, pepper: str | None = None) -> str:
    """How a key is kept: `hmac-sha256:` or, without a pepper, `sha256:`, and the digest in hex; texts are UTF-8."""
    if pepper is None:
        return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    return f"hmac-sha256:{hmac.digest(pepper.encode(), key.encode(), hashlib.sha256).hex()}"
