"""Turns the header `Authorization: Bearer …` into a principal with its scopes. Every 401 has the same message, so a
caller cannot find out why its credential was refused.
"""

from collections.abc import Callable
from typing import NamedTuple

from chassis.auth.api_keys import MARK, ApiKeys
from chassis.auth.service_tokens import TokenVerifier
from chassis.config.settings import AuthSettings
from chassis.errors import ApiError, ErrorCode
from chassis.logging import get_logger

log = get_logger(__name__)


class Principal(NamedTuple):
    """An authenticated caller, and its permissions in this service. `is_service` is True for a service of this
    platform, and False for a client with an API key.
    """

    id: str
    scopes: frozenset[str]
    is_service: bool = False

    def require(self, scope: str) -> None:
        """Raise `ApiError` (403) unless the caller has the scope."""
        if scope not in self.scopes:
            raise ApiError(ErrorCode.FORBIDDEN, f"This needs the scope {scope}, which the key does not have.")


class Authenticator:
    """Authenticates the callers of `service`. `current` returns the settings that are valid now."""

    def __init__(self, keys: ApiKeys, current: Callable[[], AuthSettings], *, service: str) -> None:
        self._keys = keys
        self._current = current
        self._tokens = TokenVerifier(current, audience=service)

    def authenticate(self, authorization: str | None) -> Principal:
        """The caller whose credentials are in this Authorization header.

        Raises `ApiError`: 401 for a header that is absent or invalid; 503 for an API key, when the keys were last read
        more than `auth.key_grace` seconds ago.
        """
        scheme, _, given = (authorization or "").partition(" ")
        credential = given.strip()
        principal = None
        if scheme.lower() == "bearer":
            principal = self._client(credential) if credential.startswith(MARK) else self._service(credential)
        if principal is None:
            raise ApiError(ErrorCode.UNAUTHENTICATED)
        return principal

    def _client(self, key: str) -> Principal | None:
        found = self._keys.find(key)
        if found is None:
            return None
        log.debug("api_key_recognised", principal=found.principal, prefix=found.prefix)
        return Principal(found.principal, found.scopes)

    def _service(self, token: str) -> Principal | None:
        caller = self._tokens.verify(token)
        if caller is None:
            return None
        return Principal(caller, frozenset(self._current().service_scopes.get(caller, ())), is_service=True)
