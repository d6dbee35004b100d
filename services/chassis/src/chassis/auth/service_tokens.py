"""Tokens with which services call each other. The calling service signs each token for one callee, and a token is valid
for a minute.

A token is a JSON Web Token (RFC 7519), signed by HS256 with a secret that only the two services have. The token's
header `kid` has the fingerprint (a short hash) of the secret. A token contains the caller (`iss`), the callee (`aud`),
and the times at which the token was issued and expires (`iat`, `exp`). A setting of the callee lists the caller's
scopes. The callee may accept several secrets of one caller, so that a secret can be replaced without refused calls.
"""

import time
from collections.abc import Callable, Mapping

import jwt
from pydantic import SecretStr

from chassis.config import fingerprint
from chassis.config.settings import AuthSettings

LIFETIME_SECONDS = 60
"""Lifetime of a token: far longer than a call's time-outs, and too short for a stolen token to be of much use."""
RENEWED_AFTER_SECONDS = 30
"""A caller sends a token only during the first half of the token's lifetime. The other half allows for slow calls and
for clocks that differ.
"""
LEEWAY_SECONDS = 5
"""The tolerated difference between the clocks of caller and callee."""
_MAX_LENGTH = 1024  # the most characters of a token; the tokens that services sign have 250
_ALGORITHM = "HS256"


class TokenSource:
    """Signs tokens of the service `issuer` for the service `audience`. `secret` returns the secret that is valid
    now.
    """

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
    """A signed token with these claims. `now` is the Unix time in seconds at which the token is issued."""
    return jwt.encode(
        {**claims, "iat": now, "exp": now + LIFETIME_SECONDS},
        secret.get_secret_value(),
        algorithm=_ALGORITHM,
        headers={"kid": fingerprint(secret)},
    )


class TokenVerifier:
    """Checks the tokens of calls to the service `audience`. `current` returns the settings that are valid now."""

    def __init__(self, current: Callable[[], AuthSettings], *, audience: str) -> None:
        self._current = current
        self._audience = audience
        self._settings: AuthSettings | None = None
        self._known: Mapping[str, tuple[str, SecretStr]] = {}

    def verify(self, token: str) -> str | None:
        """The service that signed this token; None for a token that is invalid, expired or for another callee."""
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
