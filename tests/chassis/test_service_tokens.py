"""A token is worth something to one callee for a minute, and only under a secret that the callee has of the caller."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from chassis.auth.service_tokens import LIFETIME_SECONDS, TokenSource, TokenVerifier
from chassis.config import fingerprint
from chassis.config.settings import AuthSettings
from pydantic import SecretStr

SECRET, OTHER = SecretStr("s" * 64), SecretStr("o" * 64)


def settings(**secrets: tuple[SecretStr, ...]) -> AuthSettings:
    return AuthSettings(service_secrets=secrets, service_scopes=dict.fromkeys(secrets, ("payments:write",)))


def verify(token: str, known: AuthSettings | None = None) -> str | None:
    found = known or settings(orders=(SECRET,))
    return TokenVerifier(lambda: found, audience="payments").verify(token)


def token(secret: SecretStr = SECRET, *, kid: str | None = None, algorithm: str = "HS256", **claims: Any) -> str:
    """A good one, but for what is given; None takes a claim away."""
    now = int(time.time())
    every = {"iss": "orders", "aud": "payments", "iat": now, "exp": now + LIFETIME_SECONDS, **claims}
    kept = {name: value for name, value in every.items() if value is not None}
    headers = {"kid": fingerprint(secret) if kid is None else kid}
    return jwt.encode(kept, secret.get_secret_value(), algorithm=algorithm, headers=headers)


def unsigned() -> str:
    header = {"alg": "none", "typ": "JWT", "kid": fingerprint(SECRET)}
    now = int(time.time())
    claims = {"iss": "orders", "aud": "payments", "iat": now, "exp": now + LIFETIME_SECONDS}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims)]
    return ".".join([*parts, ""])


def test_a_token_names_its_caller() -> None:
    assert verify(token()) == "orders"


NOW = int(time.time())
WRONG = {
    "for somebody else": lambda: token(aud="notifications"),
    "for several": lambda: token(aud=["payments", "notifications"]),
    "by somebody else": lambda: token(iss="notifications"),
    "expired": lambda: token(iat=NOW - 120, exp=NOW - 60),
    "from the future": lambda: token(iat=NOW + 3600, exp=NOW + 3630),
    "for longer than a minute": lambda: token(exp=NOW + 3600),
    "without a signature": unsigned,
    "with another algorithm": lambda: token(algorithm="HS512"),
    "under a secret that is not known": lambda: token(OTHER),
    "under another secret than it says": lambda: token(OTHER, kid=fingerprint(SECRET)),
    "with a key id that nobody has": lambda: token(kid="secret:00000000"),
    "without an audience": lambda: token(aud=None),
    "without an issuer": lambda: token(iss=None),
    "without an end": lambda: token(exp=None),
    "without a beginning": lambda: token(iat=None),
    "longer than any of ours": lambda: token(more="x" * 2000),
    "with an end that is no number": lambda: token(exp=[NOW + 60]),
    "no token": lambda: "a.b.c",
    "with a header that is no object": lambda: f"{base64.urlsafe_b64encode(b'[1]').decode()}.e30.e30",
    "with a key id that is no text": lambda: f"{base64.urlsafe_b64encode(b'{"kid": []}').decode()}.e30.e30",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_token_is_nobody_s(what: str) -> None:
    assert verify(WRONG[what]()) is None


def test_a_token_with_its_last_character_changed_is_nobody_s() -> None:
    good = token()
    changed = [good[:-2] + last + good[-1] for last in "AZaz09-_" if last != good[-2]]
    assert [one for one in changed if verify(one)] == []


def test_two_clocks_may_differ_by_some_seconds() -> None:
    now = int(time.time())
    assert verify(token(iat=now + 3, exp=now + 33)) == "orders"
    assert verify(token(iat=now - 62, exp=now - 2)) == "orders"


def test_a_secret_is_replaced_without_a_moment_in_which_a_call_is_refused() -> None:
    for known, used in (((SECRET,), SECRET), ((OTHER, SECRET), SECRET), ((OTHER, SECRET), OTHER), ((OTHER,), OTHER)):
        assert verify(token(used), settings(orders=known)) == "orders"
    assert verify(token(SECRET), settings(orders=(OTHER,))) is None


def test_new_settings_hold_for_the_next_token() -> None:
    current = settings(orders=(SECRET,))
    verifier = TokenVerifier(lambda: current, audience="payments")
    assert verifier.verify(token(SECRET)) == "orders"
    current = settings(orders=(OTHER,))
    assert verifier.verify(token(SECRET)) is None
    assert verifier.verify(token(OTHER)) == "orders"


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def test_one_token_is_used_for_half_a_minute_and_renewed_long_before_it_ends() -> None:
    clock = Clock()
    source = TokenSource(issuer="orders", audience="payments", secret=lambda: SECRET, clock=clock)
    first = source()
    clock.now += 25
    assert source() == first
    clock.now += 6
    assert source() != first


def test_another_secret_and_a_clock_set_back_make_a_new_token() -> None:
    clock, secret = Clock(), SECRET
    source = TokenSource(issuer="orders", audience="payments", secret=lambda: secret, clock=clock)
    first = source()
    secret = OTHER
    second = source()
    assert second != first
    clock.now -= 3600
    assert source() != second
