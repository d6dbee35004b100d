"""What is stored of a value, and what that is worth at a moment. Pure.

    loaded ────── ttl, shortened at random ──────▶ fresh_until ── stale_while_revalidate ──▶ ── stale_if_error ──▶ gone
      hit · early: so near to the end that this reader renews it     stale                     expired

Of an absence only the first part exists, `negative_ttl` long.
"""

import math
from typing import Literal, NamedTuple

from chassis.config.settings import CacheSettings

# What is stored for "the origin has none". No JSON document reads like this, so no value can be mistaken for it.
ABSENT = b"absent"

type Worth = Literal["hit", "early", "negative", "stale", "expired", "miss"]


class Entry(NamedTuple):
    """A value's JSON, or ABSENT, as it was loaded. Times are seconds of the epoch, by the clock of who loaded it."""

    payload: bytes
    loaded_at: float  # when the load ended
    delta: float  # seconds that the load took
    fresh_until: float

    def pack(self) -> bytes:
        return b"%.3f %.4f %.3f %b" % (self.loaded_at, self.delta, self.fresh_until, self.payload)

    @classmethod
    def unpack(cls, packed: bytes | None) -> "Entry | None":
        """None for nothing, and for what `pack` has not made."""
        if packed is None:
            return None
        try:
            loaded_at, delta, fresh_until, payload = packed.split(b" ", 3)
            return cls(payload, float(loaded_at), float(delta), float(fresh_until))
        except ValueError:
            return None

    def age(self, now: float) -> float:
        """Seconds since its load began: the origin's value is at most that much newer."""
        return max(0.0, now - self.loaded_at + self.delta)


def new_entry(payload: bytes, settings: CacheSettings, *, now: float, delta: float, chance: float) -> Entry:
    """An entry whose TTL is shortened by a `chance` (0 to 1) of the jitter.

    Shortened only, so that the TTL stays the bound on how long a value is fresh.
    """
    ttl = settings.negative_ttl if payload == ABSENT else settings.ttl
    return Entry(payload, now, delta, now + ttl * (1 - settings.ttl_jitter * chance))


def kept_for(entry: Entry, settings: CacheSettings) -> float:
    """Seconds after its load for which an entry is kept: of an absence nothing is, once it is no longer fresh."""
    return entry.fresh_until - entry.loaded_at + (0 if entry.payload == ABSENT else settings.stale_if_error)


def judge(entry: Entry | None, settings: CacheSettings, *, now: float, chance: float) -> Worth:
    """What an entry is worth to a reader with this `chance` (0 < chance ≤ 1)."""
    if entry is None:
        return "miss"
    if now < entry.fresh_until:
        if entry.payload == ABSENT:
            return "negative"
        return "early" if is_renewed_early(entry, settings.early_beta, now=now, chance=chance) else "hit"
    if entry.payload == ABSENT or now >= entry.fresh_until + settings.stale_if_error:
        return "miss"
    return "stale" if now < entry.fresh_until + settings.stale_while_revalidate else "expired"


def is_renewed_early(entry: Entry, beta: float, *, now: float, chance: float) -> bool:
    """XFetch: renew iff now − δ·β·ln(chance) ≥ expiry, so that of many readers about one comes a load's time too early.

    Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015.
    """
    return now - entry.delta * beta * math.log(chance) >= entry.fresh_until
