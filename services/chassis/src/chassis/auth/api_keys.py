"""API keys of clients: kept as hashes in the service's database, and known by heart to each of its API processes.

    hf_<12 characters: its prefix, which is public>_<43 characters: 256 random bits>

A process reads all valid keys at start and again every `auth.key_refresh` seconds, so that a request asks nobody,
whatever it shows: no flood of unknown keys becomes a flood of queries. A revoked key works for that long, and with the
database gone the keys last seen go on for `auth.key_grace`; then it is a 503, since nobody can say whose key it is.

What is kept of a key is its HMAC under a pepper that the database does not have: whoever reads the table cannot even
tell whether a key that he found is in it. Each row names its pepper, so that peppers can be replaced one key at a time.
"""

import asyncio
import hmac
import math
import re
import secrets
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.config import fingerprint
from chassis.config.settings import AuthSettings
from chassis.errors import ApiError, ErrorCode, HoldfastError
from chassis.logging import get_logger
from chassis.pooling import Database, is_transient
from chassis.pooling.statements import load_statements
from chassis.process.background import supervised

log = get_logger(__name__)

MARK = "hf_"
"""What a key begins with: scanners of repositories and of logs know it by that."""
MAX_KEYS = 10_000
"""Valid keys of one service. Each process holds them all: 10,000 are 7 MB, and 20 ms of each look."""

_KEY = re.compile(r"hf_([a-z0-9]{12})_[A-Za-z0-9]{43}")
_PREFIX = slice(3, 15)  # of the key's text
_PREFIX_LETTERS = string.ascii_lowercase + string.digits
_SECRET_LETTERS = string.ascii_letters + string.digits  # 62^43 > 2^256; no sign in it ends a double click
_STATEMENTS = {name: text(sql) for name, sql in load_statements("api_keys.sql", package="chassis.auth").items()}

key_age = Gauge("api_keys_age_seconds", "Seconds since this process last read the valid API keys.")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. `expires` is in seconds of Unix time, infinite for one that does not expire."""

    prefix: str
    hash: bytes
    pepper: str
    principal: str
    scopes: frozenset[str]
    expires: float


_NOBODY = ApiKey("", secrets.token_bytes(32), "", "", frozenset(), math.inf)
"""What an unknown prefix is compared with, so that it takes the path, and the time, of a wrong secret. Nothing has this
hash."""
_NO_PEPPER = secrets.token_bytes(32)


def new_key() -> str:
    """A key that nobody has seen."""
    prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(12))
    return f"{MARK}{prefix}_{''.join(secrets.choice(_SECRET_LETTERS) for _ in range(43))}"


def prefix_of(key: str) -> str:
    """The key's public part. Raises `HoldfastError`, which does not repeat it, for what is no key."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise HoldfastError("this is no key of ours: hf_, 12 of a-z and 0-9, _ and 43 letters and digits")
    return found[1]


def hash_key(key: str, pepper: bytes) -> bytes:
    """HMAC-SHA-256 of the whole key, as UTF-8, under the pepper."""
    # Not `hmac.digest`: it lets go of the interpreter, and when the log's writer takes it, this takes 50 µs, not 5.
    return hmac.new(pepper, key.encode(), "sha256").digest()


def peppers_of(settings: AuthSettings) -> dict[str, bytes]:
    """The peppers by what rows call them, the newest first: their fingerprints, as `config explain` shows them."""
    return {fingerprint(pepper): pepper.get_secret_value().encode() for pepper in settings.peppers}


def matches(key: str, known: ApiKey, peppers: Mapping[str, bytes]) -> bool:
    """Whether it is the key that this is known of. Compares in constant time, with a pepper that is gone too."""
    return hmac.compare_digest(hash_key(key, peppers.get(known.pepper, _NO_PEPPER)), known.hash)


class ApiKeys:
    """The valid keys of one service, as its database had them at the last look.

    `current` returns the settings that are valid now; `clock` is monotonic, `now` is Unix time, both in seconds.
    """

    def __init__(
        self,
        database: Database,
        current: Callable[[], AuthSettings],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._current = current
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._keys: Mapping[str, ApiKey] = {}
        self._seen_at = -math.inf
        self._is_lost = False
        self._settings: AuthSettings | None = None
        self._peppers: Mapping[str, bytes] = {}
        key_age.set_function(lambda: self._clock() - self._seen_at)

    def find(self, key: str) -> ApiKey | None:
        """What is known of the key; None for one that is not valid.

        Raises `ApiError` (503) when the database could not be asked for longer than `auth.key_grace`.
        """
        settings = self._current()
        if settings is not self._settings:
            self._settings = settings
            self._peppers = peppers_of(settings)
        if self._clock() - self._seen_at > settings.key_grace:
            raise ApiError(ErrorCode.DEPENDENCY_UNAVAILABLE, "The keys cannot be looked up now.")
        known = self._keys.get(key[_PREFIX], _NOBODY)
        return known if matches(key, known, self._peppers) and known.expires > self._now() else None

    async def look(self) -> None:
        """Read the valid keys. While that fails, what was read before stays."""
        try:
            async with self._database.read() as session:
                rows = (await session.execute(_STATEMENTS["valid"])).all()
        except Exception as error:
            if not is_transient(error):
                raise
            if not self._is_lost:
                log.warning("api_keys_not_read", error=type(error).__name__)
            self._is_lost = True
            return
        if self._is_lost:
            log.info("api_keys_read_again")
        is_first = self._seen_at == -math.inf
        before, self._keys = self._keys, {row.prefix: _known(row) for row in rows}
        self._seen_at, self._is_lost = self._clock(), False
        if not is_first and before.keys() != self._keys.keys():
            _tell_changes(before, self._keys)

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Look now, and while the block runs again and again."""
        await self.look()
        async with supervised(self._follow, name="api-keys"):
            yield

    async def _follow(self) -> None:
        while True:
            await self._sleep(self._current().key_refresh)
            await self.look()


def _known(row: Any) -> ApiKey:
    expires = row.expires_at.timestamp() if row.expires_at else math.inf
    return ApiKey(row.prefix, row.hash, row.pepper, row.principal, frozenset(row.scopes), expires)


def _tell_changes(before: Mapping[str, ApiKey], after: Mapping[str, ApiKey]) -> None:
    """The audit trail: whatever was used to change the table, each process says what it goes by from now on."""
    for event, found, other in (("api_key_added", after, before), ("api_key_removed", before, after)):
        for key in (known for prefix, known in found.items() if prefix not in other):
            log.info(event, prefix=key.prefix, principal=key.principal, scopes=sorted(key.scopes))


# What the command line does, as the role that owns the schema.

type Registered = Literal["added", "brought up to date", "unchanged", "revoked, and left so"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedKey:
    """A key without its hash. `pepper` is the fingerprint of the one that it is kept under."""

    prefix: str
    pepper: str
    principal: str
    scopes: Sequence[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


async def add_key(
    session: AsyncSession,
    key: str,
    *,
    principal: str,
    scopes: Sequence[str],
    peppers: Mapping[str, bytes],
    days: int | None = None,
) -> bool:
    """Keep a key, which expires after `days` or never; False when its prefix is taken. Raises beyond `MAX_KEYS`."""
    if await session.scalar(_STATEMENTS["count_valid"]) >= MAX_KEYS:
        raise HoldfastError(f"there are {MAX_KEYS} valid keys already: revoke some")
    values = {"prefix": prefix_of(key), "principal": principal, "days": days, **_kept(key, scopes, peppers)}
    return await session.scalar(_STATEMENTS["add"], values) is not None


async def register_key(
    session: AsyncSession, key: str, *, principal: str, scopes: Sequence[str], peppers: Mapping[str, bytes]
) -> Registered:
    """Keep a key that exists elsewhere, or bring what is kept of it up to date: the newest pepper, these scopes.

    Raises `HoldfastError` when its prefix is another key's, or another principal's.
    """
    if await add_key(session, key, principal=principal, scopes=scopes, peppers=peppers):
        return "added"
    row = (await session.execute(_STATEMENTS["find"], {"prefix": prefix_of(key)})).one()
    known = _known(row)
    if known.principal != principal or not matches(key, known, peppers):
        raise HoldfastError(
            f"{principal}: the prefix {known.prefix} is that of {known.principal}'s key, which is another one "
            "or was kept under a pepper that is gone: revoke it, and give out a new one"
        )
    if row.revoked_at:
        return "revoked, and left so"
    kept = _kept(key, scopes, peppers)
    if (kept["pepper"], known.scopes) == (known.pepper, frozenset(scopes)):
        return "unchanged"
    await session.execute(_STATEMENTS["bring_up_to_date"], {"prefix": known.prefix, **kept})
    return "brought up to date"


async def list_keys(session: AsyncSession) -> list[ListedKey]:
    """Every key there ever was, the oldest first."""
    return [ListedKey(**row._mapping) for row in await session.execute(_STATEMENTS["listed"])]  # noqa: SLF001  public API


async def revoke_key(session: AsyncSession, prefix: str) -> tuple[str, datetime] | None:
    """Whose key it was and since when it is revoked; None when there is no such key."""
    row = (await session.execute(_STATEMENTS["revoke"], {"prefix": prefix})).one_or_none()
    return (row.principal, row.revoked_at) if row else None


def _kept(key: str, scopes: Sequence[str], peppers: Mapping[str, bytes]) -> dict[str, Any]:
    if not peppers:
        raise HoldfastError("there are no auth.peppers to keep a key under")
    newest, pepper = next(iter(peppers.items()))
    return {"hash": hash_key(key, pepper), "pepper": newest, "scopes": sorted(scopes)}
