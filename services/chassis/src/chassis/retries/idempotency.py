"""Idempotency keys: a request repeated with its key gets the first answer, byte for byte, and has no second effect.

The answer is stored in the transaction of the effect, so the answer is stored if and only if the effect is committed.
An advisory lock, held until the transaction ends, serialises requests with the same key. Without the lock, a second
request would begin the same work, because the first request's row is invisible until its commit. Only the answer of a
request that had its effect is stored: after an error the key is free again.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson

from chassis.errors import ApiError, ErrorCode
from chassis.pooling import Row, Session
from chassis.pooling.statements import load_driver_statements

HEADER = "Idempotency-Key"
MAX_KEY_LENGTH = 255

STATEMENTS = load_driver_statements("idempotency.sql", package="chassis.retries")
_PRIMARY_KEY = "idempotency_record_pkey"

PRUNE_EVERY = 60.0  # seconds between two calls of `prune`
_PRUNE_BATCH = 10_000  # the most records that one statement deletes, in about 50 ms


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """One client's key for one request, and the request's fingerprint."""

    client: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class StoredAnswer[Model = Any]:
    """An answer as it was sent: the HTTP status, and the body, which is a `Model` in JSON."""

    status: int
    body: bytes


def idempotency_key(client: str, header: str | None, *, method: str, path: str, body: bytes) -> IdempotencyKey:
    """The key of a request; raises `ApiError` (400) when the header is missing, empty or too long."""
    if not header or len(header) > MAX_KEY_LENGTH:
        raise ApiError(ErrorCode.IDEMPOTENCY_KEY_MISSING)
    return IdempotencyKey(client, header, fingerprint(method, path, body))


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """SHA-256 of a request's method, path and body.

    Spaces and the order of names in a JSON body do not change the hash. This function hashes the JSON and not the
    parsed model. A hash of the model would change when a release adds a field with a default, and a request that is
    repeated after the release would be refused. A body that is not JSON, or that is nested too deeply for orjson to
    write (254 levels), is hashed as it is.
    """
    try:
        canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        canonical = body
    return hashlib.sha256(b"\0".join((method.encode(), path.encode(), canonical))).digest()


async def find_answer(session: Session, key: IdempotencyKey) -> StoredAnswer | None:
    """The answer that is stored for this key, or None. If the result is None, this transaction holds the key until its
    end, and the caller has to call `store_answer` before the commit.

    Raises `ApiError`: 409 while another request holds the key, 422 when the key was used for a different request, 404
    when `withdraw_answers` has erased the answer.
    """
    (found,) = await session.fetch(STATEMENTS["find"], client=key.client, key=key.key)
    if not found["is_held"]:
        raise _in_progress()
    if found["fingerprint"] is None:
        return None
    if found["fingerprint"] != key.fingerprint:
        raise ApiError(ErrorCode.IDEMPOTENCY_KEY_REUSED)
    if not found["body"]:
        raise ApiError(ErrorCode.NOT_FOUND, "The resource that this Idempotency-Key created has been deleted.")
    return StoredAnswer(found["status"], found["body"])


async def store_answer(session: Session, key: IdempotencyKey, answer: StoredAnswer) -> None:
    """Store the answer to a request, in the transaction that does what the request asks for.

    Raises `ApiError` (409) if the key already has an answer.
    """
    await session.insert(answer_row(key, answer))


def answer_row(key: IdempotencyKey, answer: StoredAnswer) -> Row:
    """The row that `store_answer` inserts. `Session.insert` can insert this row together with other rows."""
    values = {
        "client": key.client,
        "key": key.key,
        "fingerprint": key.fingerprint,
        "status": answer.status,
        "body": answer.body,
    }
    return Row(statement=STATEMENTS["store"], values=values, taken={_PRIMARY_KEY: _in_progress})


def _in_progress() -> ApiError:
    """The error for a request whose key another request holds."""
    return ApiError(ErrorCode.IDEMPOTENCY_KEY_IN_PROGRESS, retry_after=1)


async def withdraw_answers(session: Session, *, client: str, about: str) -> None:
    """Erase the client's stored answers that contain the text `about`, such as the id of a deleted resource.

    The keys of these answers stay in use: a repeated request has no second effect and gets a 404.
    """
    await session.fetch(STATEMENTS["withdraw"], client=client, about=about)


async def prune(session: Session, *, retention: float) -> None:
    """Delete answers older than `retention` seconds. The keys of deleted answers may be used for other requests."""
    while len(await session.fetch(STATEMENTS["prune"], retention=retention, batch=_PRUNE_BATCH)) == _PRUNE_BATCH:
        continue
