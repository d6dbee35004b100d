"""One database per service with two roles: one owns the schema and migrates, one runs and cannot alter it."""

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg

_SCRAM_ITERATIONS = 4096  # PostgreSQL's default; our passwords are random, so guessing is hopeless anyway
_CONNECT_SECONDS = 5.0


class Login(NamedTuple):
    user: str
    password: str


async def create_database(admin_dsn: str, *, name: str, owner: tuple[str, str], runtime: tuple[str, str]) -> None:
    """Create the database and both roles, or bring existing ones to this state: running it again is harmless.

    `owner` and `runtime` are (role, password). The administrator is a superuser or has CREATEDB and CREATEROLE. The
    runtime role may connect, use the schema `public` and read and write rows of whatever the owner creates later;
    everybody else may not even connect. Passwords leave this process only as SCRAM verifiers, so no log of the
    server can contain them.
    """
    async with connected(admin_dsn) as admin:
        for role, password in (owner, runtime):
            await _ensure_role(admin, role, password)
        await _ensure_membership(admin, owner[0])
        if not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            await admin.execute(f"CREATE DATABASE {_identifier(name)} OWNER {_identifier(owner[0])}")
    async with connected(_with_database(admin_dsn, name)) as inside:
        await _grant(inside, name, owner=owner[0], runtime=runtime[0])


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection, closed at the end.

    Opening it is not cut short by a cancellation: asyncpg would leave futures behind whose errors nobody reads.
    """
    opening = asyncio.ensure_future(asyncpg.connect(dsn, timeout=_CONNECT_SECONDS))
    try:
        connection = await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])
        if not opening.exception():
            await opening.result().close()
        raise
    try:
        yield connection
    finally:
        await connection.close()


async def _ensure_role(admin: asyncpg.Connection, role: str, password: str) -> None:
    if not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
        await admin.execute(f"CREATE ROLE {_identifier(role)} LOGIN")
    await admin.execute(f"ALTER ROLE {_identifier(role)} PASSWORD '{scram_verifier(password)}'")


async def _ensure_membership(admin: asyncpg.Connection, owner: str) -> None:
    """An administrator who is no superuser must be able to act as the owner of what it creates."""
    if not await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        await admin.execute(f"GRANT {_identifier(owner)} TO current_user WITH SET TRUE, INHERIT TRUE")


async def _grant(connection: asyncpg.Connection, name: str, *, owner: str, runtime: str) -> None:
    database, role = _identifier(name), _identifier(runtime)
    await connection.execute(f"""
        SET ROLE {_identifier(owner)};
        REVOKE ALL ON DATABASE {database} FROM PUBLIC;
        REVOKE ALL ON SCHEMA public FROM PUBLIC;
        GRANT CONNECT ON DATABASE {database} TO {role};
        GRANT USAGE ON SCHEMA public TO {role};
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {role};
    """)


def scram_verifier(password: str) -> str:
    """What PostgreSQL stores for a password (RFC 5803 and 7677). Only ASCII, which SASLprep leaves as it is."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _SCRAM_ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
        raise ValueError(f"not a plain PostgreSQL name: {name!r}")
    return f'"{name}"'


def _with_database(dsn: str, database: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))
