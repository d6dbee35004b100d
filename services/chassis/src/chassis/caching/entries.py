"""A cached value with its times, and the rules by which the value is fresh, stale or expired. This module does no I/O.

The age of a value decides its `Freshness`:

- From the load until `fresh_until`, the value is a `hit`, or `early` near the end. The time from the load until
  `fresh_until` is the TTL, randomly shortened.
- From `fresh_until`, the value is `stale` for `stale_while_revalidate` seconds.
- After that, the value is `expired` until `stale_if_error` seconds after `fresh_until`. Then Redis drops the value.

The cache also stores that the origin (usually the database) has no value. Such an entry is never stale: the cache drops
this entry at `fresh_until`, at most `negative_ttl` after the load.
"""

import math
from typing import Literal, NamedTuple

from chassis.config.settings import CacheSettings

ABSENT = b"absent"
"""The payload that the cache stores when the origin has no value. This payload is not valid JSON, so no value has the
same payload.
"""

type Json[T] = bytes
"""The JSON of a value of type T, as the cache stores the value."""
type Freshness = Literal["hit", "early", "negative", "stale", "expired", "miss"]
"""How a reader may use an entry.

`hit`: the entry is fresh. `early`: the entry is fresh, and this reader renews the entry in the background. `negative`:
a fresh entry says that the origin has no value. `stale`: the reader gets the old value, and a load runs in the
background. `expired`: the reader gets the old value only if a load fails. `miss`: the reader has to wait for a load.
"""


class Entry(NamedTuple):
    """A value's JSON (or `ABSENT`) with its times, which are Unix times of the process that loaded the value."""

    payload: bytes
    loaded_at: float  # the time at which the load ended
    delta: float  # the duration of the load in seconds
    fresh_until: float

    def pack(self) -> bytes:
        return b"%.3f %.4f %.3f %b" % (self.loaded_at, self.delta, self.fresh_until, self.payload)

    @classmethod
    def unpack(cls, packed: bytes | None) -> "Entry | None":
        """The entry in `packed`, or None if `packed` is None or does not have the format that `pack` writes."""
        if packed is None:
            return None
        try:
            loaded_at, delta, fresh_until, payload = packed.split(b" ", 3)
            return cls(payload, float(loaded_at), float(delta), float(fresh_until))
        except ValueError:
            return None

    def age(self, now: float) -> float:
        """Seconds since the load began. The value contains all changes of the origin that are older than this age."""
        return max(0.0, now - self.loaded_at + self.delta)


def new_entry(payload: bytes, settings: CacheSettings, *, now: float, delta: float, draw: float) -> Entry:
    """An entry that is fresh for its TTL, shortened by the share `ttl_jitter` times the random `draw` (0 to 1).

    The jitter can only shorten this time, so a value is never fresh for longer than its TTL.
    """
    ttl = settings.negative_ttl if payload == ABSENT else settings.ttl
    return Entry(payload, now, delta, now + ttl * (1 - settings.ttl_jitter * draw))


def retention_of(entry: Entry, settings: CacheSettings) -> float:
    """Seconds for which Redis stores the entry. Redis stores an `ABSENT` entry only as long as the entry is fresh."""
    return entry.fresh_until - entry.loaded_at + (0 if entry.payload == ABSENT else settings.stale_if_error)


def freshness_of(entry: Entry | None, settings: CacheSettings, *, now: float, draw: float) -> Freshness:
    """The freshness of an entry at the time `now`. The random `draw` (0 < draw ≤ 1) decides about an early renewal."""
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
    """By the algorithm XFetch, a reader renews an entry early if now − δ·β·ln(draw) ≥ `fresh_until`.

    δ is the duration of the load, β the setting `early_beta`, and `draw` a random number between 0 and 1.

    With β = 1, about one of many readers renews the entry, about one load's duration before the entry expires.

    Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015.
    """
    return now - entry.delta * beta * math.log(draw) >= entry.fresh_until
