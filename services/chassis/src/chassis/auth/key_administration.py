"""Administration of API keys: an operator stores, lists and revokes keys. Only the database role that owns the schema
may store and revoke keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from chassis.auth.api_keys import MAX_KEYS, STATEMENTS, hash_key, key_from, matches, prefix_of
from chassis.errors import HoldfastError
from chassis.pooling import Session

type Registered = Literal["added", "brought up to date", "unchanged", "revoked, and left so"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedKey:
    """A stored key without its hash. `pepper` is the fingerprint (a short hash) of the pepper that the key's hash was
    made with.
    """

    prefix: str
    pepper: str
    principal: str
    scopes: Sequence[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


async def add_key(
    session: Session,
    key: str,
    *,
    principal: str,
    scopes: Sequence[str],
    peppers: Mapping[str, bytes],
    days: int | None = None,
) -> bool:
    """Store a key. The key expires after `days` days, or never if `days` is None. Returns False when a key with the
    same prefix is stored already.

    Raises `HoldfastError` when there are `MAX_KEYS` valid keys already.
    """
    if await session.scalar(STATEMENTS["count_valid"]) >= MAX_KEYS:
        raise HoldfastError(f"there are {MAX_KEYS} valid keys already: revoke some")
    values = {"prefix": prefix_of(key), "principal": principal, "days": days, **_stored(key, scopes, peppers)}
    return await session.scalar(STATEMENTS["add"], values) is not None


async def register_key(
    session: Session, key: str, *, principal: str, scopes: Sequence[str], peppers: Mapping[str, bytes]
) -> Registered:
    """Store a key that was made elsewhere. If the key is stored already, it gets these scopes and a new hash with the
    newest pepper.

    Raises `HoldfastError` when the key's prefix belongs to another key or to another principal.
    """
    if await add_key(session, key, principal=principal, scopes=scopes, peppers=peppers):
        return "added"
    row = (await session.execute(STATEMENTS["find"], {"prefix": prefix_of(key)})).one()
    known = key_from(row)
    if known.principal != principal or not matches(key, known, peppers):
        raise HoldfastError(
            f"{principal}: the prefix {known.prefix} is that of {known.principal}'s key, which is another one "
            "or was stored under a pepper that is gone: revoke it, and give out a new one"
        )
    if row.revoked_at:
        return "revoked, and left so"
    stored = _stored(key, scopes, peppers)
    if (stored["pepper"], known.scopes) == (known.pepper, frozenset(scopes)):
        return "unchanged"
    await session.execute(STATEMENTS["bring_up_to_date"], {"prefix": known.prefix, **stored})
    return "brought up to date"


async def list_keys(session: Session) -> list[ListedKey]:
    """All keys, the oldest first, including revoked and expired keys."""
    # SQLAlchemy documents `_mapping` as a public attribute.
    return [ListedKey(**row._mapping) for row in await session.execute(STATEMENTS["listed"])]  # noqa: SLF001


async def revoke_key(session: Session, prefix: str) -> tuple[str, datetime] | None:
    """Revoke a key. Returns the principal and the time of the first revocation, or None for an unknown prefix."""
    row = (await session.execute(STATEMENTS["revoke"], {"prefix": prefix})).one_or_none()
    return (row.principal, row.revoked_at) if row else None


def _stored(key: str, scopes: Sequence[str], peppers: Mapping[str, bytes]) -> dict[str, Any]:
    if not peppers:
        raise HoldfastError("the setting auth.peppers is needed to store a key")
    newest, pepper = next(iter(peppers.items()))
    return {"hash": hash_key(key, pepper), "pepper": newest, "scopes": sorted(scopes)}
