"""Whoever shows a valid key or token is known by it, with its scopes; whoever shows none learns nothing."""

from collections.abc import AsyncIterator, Sequence

import pytest
from api_keys import PEPPER, key_of
from chassis.auth import Authenticator, Principal
from chassis.auth.api_keys import ApiKeys
from chassis.auth.service_tokens import TokenSource
from chassis.config.settings import AuthSettings
from chassis.errors import ApiError, ErrorCode
from chassis.pooling import Database
from pydantic import SecretStr, ValidationError

SECRET = SecretStr("s" * 64)
SETTINGS = AuthSettings(
    peppers=(SecretStr(PEPPER),),
    service_secrets={"billing": (SECRET,)},
    service_scopes={"billing": ("orders:read",)},
)
KEY = key_of("globex")


@pytest.fixture
async def authenticator(database: Database) -> AsyncIterator[Authenticator]:
    keys = ApiKeys(database, lambda: SETTINGS)
    async with keys.refreshing():
        yield Authenticator(keys, lambda: SETTINGS, service="shop")


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER  {KEY} "])
async def test_a_key_stands_for_its_principal_and_what_it_may_do(authenticator: Authenticator, header: str) -> None:
    found = authenticator.authenticate(header)
    assert found == Principal("globex", frozenset({"orders:read", "orders:write"}))


async def test_a_token_stands_for_the_service_that_signed_it(authenticator: Authenticator) -> None:
    tokens = TokenSource(issuer="billing", audience="shop", secret=lambda: SECRET)
    assert authenticator.authenticate(tokens()) == Principal("billing", frozenset({"orders:read"}), is_service=True)


NO_KEYS: Sequence[str | None] = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer \N{NO-BREAK SPACE}",
    KEY,
    f"Basic {KEY}",
    f"Bearer {KEY}x",
    f"Bearer {KEY[:-1]}",
    f"Bearer {KEY.upper()}",
    f"Bearer {KEY[:16]}",
    f"Bearer {KEY[:16]}{'0' * 43}",
    f"Bearer {key_of('nobody')}",
    f"Bearer {PEPPER}",
    "Bearer hf_",
    "Bearer hf_ключ",
    "Bearer ключ",
    "Bearer a.b.c",
]


@pytest.mark.parametrize("header", NO_KEYS)
async def test_anything_else_is_refused_in_the_same_words(authenticator: Authenticator, header: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        authenticator.authenticate(header)
    assert refused.value.code is ErrorCode.UNAUTHENTICATED
    assert str(refused.value) == ErrorCode.UNAUTHENTICATED.value.message


def test_what_needs_a_scope_is_forbidden_without_it() -> None:
    principal = Principal("acme", frozenset({"orders:read"}))
    principal.require("orders:read")
    with pytest.raises(ApiError, match="orders:write") as refused:
        principal.require("orders:write")
    assert refused.value.code is ErrorCode.FORBIDDEN


def test_a_service_that_may_do_nothing_is_a_mistake_that_is_found_at_start() -> None:
    with pytest.raises(ValidationError, match="does not have: billing"):
        AuthSettings(service_secrets={"billing": (SECRET,)})
