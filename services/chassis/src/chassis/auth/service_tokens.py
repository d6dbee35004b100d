"""Tokens between services: signed by the caller for one callee and a minute, so that none is worth stealing.

A JSON Web Token (RFC 7519), HS256 under a secret that only the two have, and named by `kid`. It says who calls (`iss`),
whom (`aud`), when it was made and when it ends (`iat`, `exp`); what the caller may do is the callee's setting. The
callee may know several secrets of one caller, so that one is replaced without a gap.
"""

import time
from collections.abc import Callable, Mapping

import jwt
from pydantic import SecretStr

from chassis.config import fingerprint
from chassis.config.settings import AuthSettings

LIFETIME_SECONDS = 60
"""Of a token: far above a call's time-outs, and what was read over a shoulder is worth nothing a minute later."""
RENEWED_AFTER_SECONDS = 30
"""A token is used for so long and then has as much left: for clocks that differ, and for a call that takes its time."""
LEEWAY_SECONDS = 5
"""What two clocks may differ by."""
_MAX_LENGTH = 1024  # ours have 250 characters
_ALGORITHM = "HS256"


class TokenSource:
    """Signs what `issuer` shows to `audience`, under the secret that is valid now."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        secret: Callable[[], SecretStr],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._claims = {"iss": issuer, "aud": audience}
        self._secret = secret
        self._clock = clock
        self._token = ""
        self._signed_with: SecretStr | None = None
        self._signed_at = 0

    def __call__(self) -> str:
        """The value of an Authorization header."""
        secret, now = self._secret(), int(self._clock())
        if secret != self._signed_with or not 0 <= now - self._signed_at < RENEWED_AFTER_SECONDS:
            self._token = sign(self._claims, secret, now=now)
            self._signed_with, self._signed_at = secret, now
        return f"Bearer {self._token}"


def sign(claims: Mapping[str, object], secret: SecretStr, *, now: int) -> str:
    """A token with these claims, made now (Unix time in seconds)."""
    return jwt.encode(
        {**claims, "iat": now, "exp": now + LIFETIME_SECONDS},
        secret.get_secret_value(),
        algorithm=_ALGORITHM,
        headers={"kid": fingerprint(secret)},
    )


class TokenVerifier:
    """Knows the callers of one service; `current` returns the settings that are valid now."""

    def __init__(self, current: Callable[[], AuthSettings], *, audience: str) -> None:
        self._current = current
        self._audience = audience
        self._settings: AuthSettings | None = None
        self._known: Mapping[str, tuple[str, SecretStr]] = {}

    def verify(self, token: str) -> str | None:
        """The service that signed this token for us, just now; None if none did."""
        settings = self._current()
        if settings is not self._settings:
            self._settings = settings
            self._known = {
                fingerprint(one): (caller, one) for caller, valid in settings.service_secrets.items() for one in valid
            }
        if len(token) > _MAX_LENGTH:
            return None
        try:
            caller, secret = self._known[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token,
                secret.get_secret_value(),
                algorithms=[_ALGORITHM],
                issuer=caller,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["iss", "aud", "iat", "exp"], "strict_aud": True},
            )
        except (jwt.InvalidTokenError, KeyError):
            return None
        return caller if int(claims["exp"]) - int(claims["iat"]) <= LIFETIME_SECONDS else None
