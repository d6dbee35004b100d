"""Idempotency keys: a request repeated with its key gets the first answer, byte for byte, and has no second effect.

The answer is stored in the transaction of the effect, so neither exists without the other. An advisory lock, held until
the transaction ends, serialises requests with the same key: the second request could not see a row that the first has
not committed yet. Only the answer of a request that had its effect is stored: after an error the key is free again.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.errors import ApiError, ErrorCode

HEADER = "Idempotency-Key"
MAX_KEY_LENGTH = 255

_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:client || chr(31) || :key, 0))")
_FIND = text("SELECT fingerprint, status, body FROM idempotency_record WHERE client = :client AND key = :key")
_RECORD = text(
    "INSERT INTO idempotency_record (client, key, fingerprint, status, body)"
    " VALUES (:client, :key, :fingerprint, :status, :body)"
)

_WITHDRAW = text(
    "UPDATE idempotency_record SET body = '' WHERE client = :client"
    " AND position(convert_to(CAST(:about AS text), 'UTF8') IN body) > 0"
)
PRUNE = text(
    "DELETE FROM idempotency_record WHERE ctid = ANY (ARRAY("
    "SELECT ctid FROM idempotency_record"
    " WHERE created_at < now() - make_interval(secs => CAST(:retention AS double precision)) LIMIT :batch))"
    " RETURNING 1"
)
PRUNE_EVERY = 60.0  # seconds
_PRUNE_BATCH = 10_000  # records per statement, which takes about 50 ms


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """One client's key for one request, and the request's fingerprint."""

    client: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class StoredAnswer[Model = Any]:
    """An answer as it was sent: HTTP status and the body's bytes, a Model in JSON."""

    status: int
    body: bytes


def idempotency_key(client: str, header: str | None, *, method: str, path: str, body: bytes) -> IdempotencyKey:
    """The key of a request; raises `ApiError` (400) when the header is missing, empty or too long."""
    if not header or len(header) > MAX_KEY_LENGTH:
        raise ApiError(ErrorCode.IDEMPOTENCY_KEY_MISSING)
    return IdempotencyKey(client, header, fingerprint(method, path, body))


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """SHA-256 of a request's method, path and body.

    Spaces and the order of names in a JSON body do not change it. The body is not parsed by a model: a field that a
    later version adds with a default would then change the fingerprint of a repeated request. A body that is not JSON,
    or that is nested too deeply for orjson to write (254 levels), counts byte by byte.
    """
    try:
        canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        canonical = body
    return hashlib.sha256(b"\0".join((method.encode(), path.encode(), canonical))).digest()


class Record(Protocol):
    """A row of `idempotency_record`, read by SQLAlchemy or by the driver."""

    def __getitem__(self, column: str, /) -> Any: ...


def judge(key: IdempotencyKey, *, is_held: bool, record: Record | None) -> StoredAnswer | None:
    """The answer in the key's record (fingerprint, status, body), if there is one and this transaction holds the key.

    Pure. Raises as `find_answer` does.
    """
    if not is_held:
        raise in_progress()
    if record is None or record["fingerprint"] is None:
        return None
    if record["fingerprint"] != key.fingerprint:
        raise ApiError(ErrorCode.IDEMPOTENCY_KEY_REUSED)
    if not record["body"]:
        raise ApiError(ErrorCode.NOT_FOUND, "What was made with this Idempotency-Key has been deleted since.")
    return StoredAnswer(record["status"], record["body"])


def in_progress() -> ApiError:
    """The answer to a request while another one holds its key."""
    return ApiError(ErrorCode.IDEMPOTENCY_KEY_IN_PROGRESS, retry_after=1)


async def find_answer(session: AsyncSession, key: IdempotencyKey) -> StoredAnswer | None:
    """The answer stored for this key. None if there is none: this transaction then holds the key until it ends, and
    calls `store_answer` before it commits.

    Raises `ApiError`: 409 while another request holds the key, 422 when the key was used for a different request, 404
    when its answer was withdrawn.
    """
    is_held = await session.scalar(_LOCK, {"client": key.client, "key": key.key})
    row = (await session.execute(_FIND, {"client": key.client, "key": key.key})).mappings().one_or_none()
    return judge(key, is_held=bool(is_held), record=row)


async def store_answer(session: AsyncSession, key: IdempotencyKey, answer: StoredAnswer) -> None:
    """Store the answer in the transaction of its effect."""
    await session.execute(
        _RECORD,
        {
            "client": key.client,
            "key": key.key,
            "fingerprint": key.fingerprint,
            "status": answer.status,
            "body": answer.body,
        },
    )


async def withdraw_answers(session: AsyncSession, *, client: str, about: str) -> None:
    """Erase the client's stored answers that contain the text `about`, such as the id of a deleted resource.

    Their keys stay in use: a repeated request has no second effect and gets a 404.
    """
    await session.execute(_WITHDRAW, {"client": client, "about": about})


async def prune(session: AsyncSession, *, retention: float) -> None:
    """Delete answers older than `retention` seconds. Their keys may then be used for other requests."""
    values = {"retention": retention, "batch": _PRUNE_BATCH}
    while len((await session.execute(PRUNE, values)).all()) == _PRUNE_BATCH:
        continue
