"""API keys of these tests: each principal's follows from its name, and is put into a database without a command."""

import hashlib

import asyncpg
from chassis.auth import Authenticator
from chassis.auth.api_keys import ApiKeys, hash_key, peppers_of, prefix_of
from chassis.config.settings import AuthSettings
from chassis.pooling import Database
from pydantic import SecretStr

PEPPER = "pepper-of-the-tests-" + "0" * 44
CALLERS = ("acme", "globex", "shop", "other-shop")
SCOPES = {
    "": ("orders:read", "orders:write"),  # for an API on the tables of the chassis alone
    "orders": ("orders:read", "orders:write"),
    "payments": ("payments:read", "payments:write"),
    "notifications": ("mails:read", "webhooks:manage"),
}
PEPPERS = AuthSettings(peppers=(SecretStr(PEPPER),))


def key_of(principal: str) -> str:
    """As a client would show it."""
    digits = hashlib.sha256(principal.encode()).hexdigest()
    return f"hf_{digits[:12]}_{digits[:43]}"


def caller(principal: str) -> dict[str, str]:
    """The header that says who calls."""
    return {"Authorization": f"Bearer {key_of(principal)}"}


async def authenticator(database: Database) -> Authenticator:
    """Knows who is in the database now."""
    keys = ApiKeys(database, lambda: PEPPERS)
    await keys.refresh()
    return Authenticator(keys, lambda: PEPPERS, service="shop")


async def keep_keys(connection: asyncpg.Connection, package: str) -> None:
    """Let a service's database know the callers, each for all that there is to do; the connection is a superuser's."""
    ((pepper_id, pepper),) = peppers_of(PEPPERS).items()
    keys = {name: key_of(name) for name in CALLERS}
    await connection.executemany(
        "INSERT INTO api_key (prefix, hash, pepper, principal, scopes) VALUES ($1, $2, $3, $4, $5)",
        [
            (prefix_of(key), hash_key(key, pepper), pepper_id, name, list(SCOPES.get(package, ())))
            for name, key in keys.items()
        ],
    )
