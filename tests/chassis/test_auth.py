"""Whoever has a key is known by it; whoever has none learns nothing; keys and peppers are replaced without a gap."""

import pytest
from chassis.auth import Authenticator, Principal, hash_key
from chassis.errors import ApiError, ErrorCode
from chassis.settings import AuthSettings
from pydantic import ValidationError

ACME, GLOBEX = "a" * 64, "b" * 64
PEPPER, NEW_PEPPER = "p" * 64, "n" * 64
SETTINGS = AuthSettings.model_validate(
    {"keys": {"acme": [hash_key(ACME, PEPPER)], "globex": [hash_key(GLOBEX, PEPPER)]}, "peppers": [PEPPER]}
)


class Current:
    """The settings of a process that may change."""

    def __init__(self) -> None:
        self.settings = SETTINGS
        self.authenticator = Authenticator(lambda: self.settings)

    def becomes(self, *, keys: dict[str, list[str]], peppers: list[str]) -> None:
        self.settings = AuthSettings.model_validate({"keys": keys, "peppers": peppers})

    def knows(self, key: str) -> bool:
        try:
            return bool(self.authenticator.authenticate(f"Bearer {key}"))
        except ApiError:
            return False


@pytest.fixture
def authenticator() -> Authenticator:
    return Authenticator(lambda: SETTINGS)


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
        f"Bearer {hash_key(ACME, PEPPER)}",
        f"Bearer {PEPPER}",
        "Bearer ключ",
    ],
)
def test_anything_else_is_refused_in_the_same_way(authenticator: Authenticator, header: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        authenticator.authenticate(header)
    assert refused.value.code is ErrorCode.UNAUTHENTICATED
    assert str(refused.value) == ErrorCode.UNAUTHENTICATED.value.message


@pytest.mark.parametrize("header", ["Bearer  ", "Bearer \N{NO-BREAK SPACE}"])
def test_no_key_is_nobody_s_key_though_its_hash_was_configured(header: str) -> None:
    with pytest.raises(ApiError):
        Authenticator(lambda: AuthSettings(keys={"nobody": [hash_key("")]})).authenticate(header)


def test_without_keys_nobody_is_known() -> None:
    with pytest.raises(ApiError):
        Authenticator(AuthSettings).authenticate(f"Bearer {ACME}")


def test_the_hash_is_hmac_sha256_of_the_key_under_the_pepper() -> None:
    # RFC 4231, test case 2.
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert hash_key("what do ya want for nothing?", "Jefe") == f"hmac-sha256:{expected}"


def test_without_a_pepper_the_hash_is_sha256_of_the_key() -> None:
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_key("abc") == f"sha256:{expected}"


@pytest.mark.parametrize("peppers", [[], [PEPPER]])
def test_a_hash_without_a_pepper_needs_none_and_is_not_disturbed_by_one(peppers: list[str]) -> None:
    current = Current()
    current.becomes(keys={"acme": [hash_key(ACME)]}, peppers=peppers)
    assert current.knows(ACME)
    assert not current.knows(GLOBEX)


def test_a_hash_under_another_pepper_is_no_key() -> None:
    current = Current()
    current.becomes(keys={"acme": [hash_key(ACME, NEW_PEPPER)]}, peppers=[PEPPER])
    assert not current.knows(ACME)


def test_the_pepper_is_replaced_without_a_moment_in_which_a_key_is_refused() -> None:
    current = Current()
    old, new = [hash_key(ACME, PEPPER)], [hash_key(ACME, NEW_PEPPER)]
    for keys, peppers in (
        (old, [PEPPER]),
        (old, [NEW_PEPPER, PEPPER]),
        (new, [NEW_PEPPER, PEPPER]),
        (new, [NEW_PEPPER]),
    ):
        current.becomes(keys={"acme": keys}, peppers=peppers)
        assert current.knows(ACME)
    current.becomes(keys={"acme": old}, peppers=[NEW_PEPPER])
    assert not current.knows(ACME)


def test_a_principal_may_have_two_keys_while_one_is_replaced() -> None:
    current = Current()
    current.becomes(keys={"acme": [hash_key(ACME, PEPPER), hash_key(GLOBEX, PEPPER)]}, peppers=[PEPPER])
    assert current.knows(ACME)
    assert current.knows(GLOBEX)
    current.becomes(keys={"acme": [hash_key(GLOBEX, PEPPER)]}, peppers=[PEPPER])
    assert not current.knows(ACME)


def test_keys_without_a_pepper_are_a_mistake_that_is_found_at_start() -> None:
    with pytest.raises(ValidationError, match="keys need peppers"):
        AuthSettings.model_validate({"keys": {"acme": [hash_key(ACME, PEPPER)]}})


@pytest.mark.parametrize(
    "stored", ["sha256:" + "0" * 63, "sha256:" + "0" * 65, "sha256:" + "A" * 64, "md5:" + "0" * 64, ACME, ""]
)
def test_what_is_no_digest_is_no_key_and_the_error_does_not_repeat_it(stored: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        AuthSettings.model_validate({"keys": {"acme": [stored]}, "peppers": [PEPPER]})
    assert "64 " in str(invalid.value)
    assert not stored or stored not in str(invalid.value)
