"""A cached value with its times, and how fresh it is at a moment. This module does no I/O.

    loaded ──── ttl, randomly shortened ────▶ fresh_until ── stale_while_revalidate ──▶ ── stale_if_error ──▶ gone
       hit, or early near the end                           stale                       expired

The entry of an absent value ("the origin has none") lives only until `fresh_until`, after `negative_ttl`.
"""

import math
from typing import Literal, NamedTuple

from chassis.config.settings import CacheSettings

ABSENT = b"absent"
"""Stored when the origin has no value. It is not valid JSON, so no value can equal it."""

type Json[T] = bytes
"""A T in JSON, as the cache stores it."""
type Freshness = Literal["hit", "early", "negative", "stale", "expired", "miss"]
"""`early`: still fresh, but this reader renews it in the background. `negative`: a fresh entry of an absent value."""


class Entry(NamedTuple):
    """A value's JSON, or ABSENT. Times are Unix times, by the clock of the process that loaded the value."""

    payload: bytes
    loaded_at: float  # when the load ended
    delta: float  # seconds that the load took
    fresh_until: float

    def pack(self) -> bytes:
        return b"%.3f %.4f %.3f %b" % (self.loaded_at, self.delta, self.fresh_until, self.payload)

    @classmethod
    def unpack(cls, packed: bytes | None) -> "Entry | None":
        """The entry in `packed`, or None if there is no entry or `pack` did not write these bytes."""
        if packed is None:
            return None
        try:
            loaded_at, delta, fresh_until, payload = packed.split(b" ", 3)
            return cls(payload, float(loaded_at), float(delta), float(fresh_until))
        except ValueError:
            return None

    def age(self, now: float) -> float:
        """Seconds since the load began. The cached value is behind the origin by at most that much."""
        return max(0.0, now - self.loaded_at + self.delta)


def new_entry(payload: bytes, settings: CacheSettings, *, now: float, delta: float, draw: float) -> Entry:
    """An entry that is fresh for its TTL, shortened by the jitter times `draw` (0 to 1).

    The jitter only shortens the time, so a value is never fresh for longer than its TTL.
    """
    ttl = settings.negative_ttl if payload == ABSENT else settings.ttl
    return Entry(payload, now, delta, now + ttl * (1 - settings.ttl_jitter * draw))


def retention_of(entry: Entry, settings: CacheSettings) -> float:
    """Seconds for which Redis stores the entry. The entry of an absent value is dropped when it is no longer fresh."""
    return entry.fresh_until - entry.loaded_at + (0 if entry.payload == ABSENT else settings.stale_if_error)


def freshness_of(entry: Entry | None, settings: CacheSettings, *, now: float, draw: float) -> Freshness:
    """How fresh an entry is for a reader with this random `draw` (0 < draw ≤ 1)."""
    if entry is None:
        return "miss"
    if now < entry.fresh_until:
        if entry.payload == ABSENT:
            return "negative"
        return "early" if is_renewed_early(entry, settings.early_beta, now=now, draw=draw) else "hit"
    if entry.payload == ABSENT or now >= entry.fresh_until + settings.stale_if_error:
        return "miss"
    return "stale" if now < entry.fresh_until + settings.stale_while_revalidate else "expired"


def is_renewed_early(entry: Entry, beta: float, *, now: float, draw: float) -> bool:
    """XFetch: renew if now − δ·β·ln(draw) ≥ expiry. About one of many readers renews, one load's duration early.

    Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015.
    """
    return now - entry.delta * beta * math.log(draw) >= entry.fresh_until
