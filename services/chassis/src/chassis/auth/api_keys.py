"""API keys of clients: the service's database stores their hashes, and each API process holds all hashes in memory.

A key consists of `hf_`, a public prefix of 12 characters that identifies the key, `_`, and a secret part of 43
characters (256 random bits).

A process reads all valid keys at start-up and again every `auth.key_refresh` seconds. A request causes no query, so a
flood of unknown keys does not reach the database. A revoked key works until the next read. While the database cannot be
read, the keys stay valid for `auth.key_grace` seconds. After this time every request with a key gets a 503, because the
key may have been revoked.

The stored hash is an HMAC. Its secret, the pepper, is a setting and not in the database. So a reader of the table who
does not have the pepper cannot check whether a given key is in the table. Each row has the fingerprint (a short hash)
of the pepper with which the row's hash was made. So keys that were hashed with an old pepper stay valid while an
operator replaces the pepper.
"""

import asyncio
import hmac
import math
import re
import secrets
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import Gauge
from sqlalchemy import text

from chassis.config import fingerprint
from chassis.config.settings import AuthSettings
from chassis.errors import ApiError, ErrorCode, HoldfastError
from chassis.logging import get_logger
from chassis.pooling import Database, is_transient
from chassis.pooling.statements import load_statements
from chassis.process.background import supervised

log = get_logger(__name__)

MARK = "hf_"
"""Every key starts with this text, so that secret scanners recognise a key in a repository or a log."""
MAX_KEYS = 10_000
"""The largest number of valid keys of one service. Each process holds all valid keys in memory: 10,000 keys take 7 MB,
and reading them takes 20 ms.
"""

_KEY = re.compile(r"hf_([a-z0-9]{12})_[A-Za-z0-9]{43}")
_PREFIX = slice(3, 15)  # the position of the prefix in a key
_PREFIX_LETTERS = string.ascii_lowercase + string.digits
# The secret part has only letters and digits, so that a double click selects a whole key. 43 such characters hold 256
# random bits.
_SECRET_LETTERS = string.ascii_letters + string.digits
STATEMENTS = {name: text(sql) for name, sql in load_statements("api_keys.sql", package="chassis.auth").items()}

key_age = Gauge("api_keys_age_seconds", "Seconds since this process last read the valid API keys.")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the database stores it. `expires` is a Unix time in seconds, or infinity for a key that does not
    expire.
    """

    prefix: str
    hash: bytes
    pepper: str
    principal: str
    scopes: frozenset[str]
    expires: float


_NO_KEY = ApiKey("", secrets.token_bytes(32), "", "", frozenset(), math.inf)
"""A key with an unknown prefix is compared with this placeholder and never matches. The comparison takes as long as the
comparison of a wrong secret, so the time does not reveal which prefixes exist.
"""
_NO_PEPPER = secrets.token_bytes(32)


def new_key() -> str:
    """A new random key."""
    prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(12))
    return f"{MARK}{prefix}_{''.join(secrets.choice(_SECRET_LETTERS) for _ in range(43))}"


def prefix_of(key: str) -> str:
    """The public part of a key. Raises `HoldfastError` for any other text; the message does not repeat the text."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise HoldfastError("this is not an API key: hf_, 12 of a-z and 0-9, _, and 43 letters or digits")
    return found[1]


def hash_key(key: str, pepper: bytes) -> bytes:
    """HMAC-SHA-256 of the whole key, as UTF-8, under the pepper."""
    # `hmac.digest` would release the GIL. The thread that writes the log might then take the GIL, and the call would
    # take 50 µs instead of 5 µs.
    return hmac.new(pepper, key.encode(), "sha256").digest()


def peppers_of(settings: AuthSettings) -> dict[str, bytes]:
    """The peppers by their fingerprints (short hashes), the newest first. The keys' rows in the database and the output
    of `config explain` contain these fingerprints.
    """
    return {fingerprint(pepper): pepper.get_secret_value().encode() for pepper in settings.peppers}


def matches(key: str, known: ApiKey, peppers: Mapping[str, bytes]) -> bool:
    """Whether `known` was stored for `key`. The comparison takes the same time for every result, even if the pepper of
    `known` was removed from the settings.
    """
    return hmac.compare_digest(hash_key(key, peppers.get(known.pepper, _NO_PEPPER)), known.hash)


class ApiKeys:
    """The valid keys of one service, as they were when the database was last read.

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
        self._read_at = -math.inf
        self._is_failing = False
        self._settings: AuthSettings | None = None
        self._peppers: Mapping[str, bytes] = {}
        key_age.set_function(lambda: self._clock() - self._read_at)

    def find(self, key: str) -> ApiKey | None:
        """The stored key that matches `key`, or None if `key` is invalid.

        Raises `ApiError` (503) when the database was last read more than `auth.key_grace` seconds ago.
        """
        settings = self._current()
        if settings is not self._settings:
            self._settings = settings
            self._peppers = peppers_of(settings)
        if self._clock() - self._read_at > settings.key_grace:
            raise ApiError(ErrorCode.DEPENDENCY_UNAVAILABLE, "The keys cannot be looked up now.")
        known = self._keys.get(key[_PREFIX], _NO_KEY)
        return known if matches(key, known, self._peppers) and known.expires > self._now() else None

    @property
    def principals(self) -> frozenset[str]:
        """The clients that have a key, as of the last read."""
        return frozenset(key.principal for key in self._keys.values())

    async def refresh(self) -> None:
        """Read the valid keys. If the database is unavailable, the process continues with the keys that it read
        before.
        """
        try:
            async with self._database.read() as session:
                rows = (await session.execute(STATEMENTS["valid"])).all()
        except Exception as error:
            if not is_transient(error):
                raise
            if not self._is_failing:
                log.warning("api_keys_not_read", error=type(error).__name__)
            self._is_failing = True
            return
        if self._is_failing:
            log.info("api_keys_read_again")
        is_first = self._read_at == -math.inf
        before, self._keys = self._keys, {row.prefix: key_from(row) for row in rows}
        self._read_at, self._is_failing = self._clock(), False
        if not is_first and before.keys() != self._keys.keys():
            _log_changes(before, self._keys)

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """Read the keys now, and every `auth.key_refresh` seconds while the `with` block runs."""
        await self.refresh()
        async with supervised(self._refresh_repeatedly, name="api-keys"):
            yield

    async def _refresh_repeatedly(self) -> None:
        while True:
            await self._sleep(self._current().key_refresh)
            await self.refresh()


def key_from(row: Any) -> ApiKey:
    """The `ApiKey` of one row of the table `api_key`."""
    expires = row.expires_at.timestamp() if row.expires_at else math.inf
    return ApiKey(row.prefix, row.hash, row.pepper, row.principal, frozenset(row.scopes), expires)


def _log_changes(before: Mapping[str, ApiKey], after: Mapping[str, ApiKey]) -> None:
    """Log each added and each removed key. This way the log records all changes of the table, including changes that
    were not made with the command line.
    """
    for event, found, other in (("api_key_added", after, before), ("api_key_removed", before, after)):
        for key in (known for prefix, known in found.items() if prefix not in other):
            log.info(event, prefix=key.prefix, principal=key.principal, scopes=sorted(key.scopes))
