"""Whoever has a key is known by it; whoever has none learns nothing."""

import pytest
from chassis.auth import Authenticator, Principal, hash_key
from chassis.errors import ApiError, ErrorCode
from chassis.settings import AuthSettings
from pydantic import SecretStr, ValidationError

ACME, GLOBEX = "a" * 64, "b" * 64


@pytest.fixture
def authenticator() -> Authenticator:
    return Authenticator({"acme": SecretStr(hash_key(ACME)), "globex": SecretStr(hash_key(GLOBEX))})


@pytest.mark.parametrize("header", [f"Bearer {GLOBEX}", f"bearer {GLOBEX}", f"BEARER  {GLOBEX} "])
def test_a_key_stands_for_its_principal(authenticator: Authenticator, header: str) -> None:
    assert authenticator.authenticate(header) == Principal("globex")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        ACME,
        f"Basic {ACME}",
        f"Bearer {ACME}x",
        f"Bearer {ACME[:-1]}",
        f"Bearer {ACME.upper()}",
        f"Bearer {hash_key(ACME)}",
        "Bearer ключ",
    ],
)
def test_anything_else_is_refused_in_the_same_way(authenticator: Authenticator, header: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        authenticator.authenticate(header)
    assert refused.value.code is ErrorCode.UNAUTHENTICATED
    assert str(refused.value) == ErrorCode.UNAUTHENTICATED.value.message


def test_without_keys_nobody_is_known() -> None:
    with pytest.raises(ApiError):
        Authenticator({}).authenticate(f"Bearer {ACME}")


@pytest.mark.parametrize("stored", [ACME[:63], ACME + "0", "A" * 64, "plain text", ""])
def test_what_is_no_sha_256_is_no_key_and_the_error_does_not_repeat_it(stored: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        AuthSettings.model_validate({"keys": {"acme": stored}})
    assert "64 of 0-9 and a-f" in str(invalid.value)
    assert not stored or stored not in str(invalid.value)
