"""Authentication: `Authorization: Bearer <key>`, for clients and for services alike.

Keys are 256 random bits, kept only as SHA-256: a slow hash protects guessable passwords, which these are not.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from chassis.errors import ApiError, ErrorCode


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the id that its key stands for."""

    id: str


class Authenticator:
    """Knows the principals of one service: `keys` maps each to the SHA-256 of its key, in hex."""

    def __init__(self, keys: Mapping[str, SecretStr]) -> None:
        self._keys = {principal: known.get_secret_value() for principal, known in keys.items()}

    def authenticate(self, authorization: str | None) -> Principal:
        """The principal that the header's key belongs to; raises `ApiError` (401) without a valid one."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(ErrorCode.UNAUTHENTICATED)
        digest = hash_key(key.strip())
        # Every entry is compared, in constant time each: how long it takes says nothing of which one matched.
        matches = [principal for principal, known in self._keys.items() if hmac.compare_digest(digest, known)]
        if not matches:
            raise ApiError(ErrorCode.UNAUTHENTICATED)
        return Principal(matches[0])


def hash_key(key: str) -> str:
    """How a key is kept: its SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()
