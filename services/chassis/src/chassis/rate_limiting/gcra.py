"""GCRA, the generic cell rate algorithm, as a pure function.

GCRA stores one number per key (a caller), the theoretical arrival time (TAT): the time at which the whole burst is
available again. In any time span Δ, GCRA admits at most burst + ⌊rate × Δ⌋ units of cost. A limiter with fixed windows
may admit twice its limit around the boundary of two windows.

Times are integers in microseconds, so that `decide` and `gcra.lua` agree exactly.
"""

from functools import lru_cache
from typing import NamedTuple

MICROSECONDS = 1_000_000


class Decision(NamedTuple):
    """Whether the request may run, and the state of the limit for the RateLimit fields of the answer.

    `tat` is the theoretical arrival time (TAT) after the decision: the time at which the whole burst is available
    again, in microseconds of the clock that the decision used. `remaining` is in units of cost. `retry_after` (0 when
    the request is allowed) and `reset_after` (until the whole burst is available again) are in seconds.
    """

    allowed: bool
    tat: int
    remaining: int
    retry_after: float
    reset_after: float


def decide(tat: int, now: int, *, rate: float, burst: int, cost: int) -> Decision:
    """Allow `cost` units (1 to `burst`) if the burst has that many units left. The burst refills at `rate` units a
    second.

    `tat` is the theoretical arrival time (TAT) after the previous decision for this key, or 0 for a new key. `now` and
    `tat` are in microseconds.
    """
    interval = microseconds_per_unit(rate)
    capacity = burst * interval
    # If the TAT (the time at which the whole burst is available again) is later than now + capacity, the clock stepped
    # back or the limit was lowered. In this case, the part of the TAT beyond now + capacity is dropped.
    tat = min(max(tat, now), now + capacity)
    allowed = tat + cost * interval - now <= capacity
    if allowed:
        tat += cost * interval
    return describe(allowed, tat, now, interval=interval, burst=burst, cost=cost)


@lru_cache(maxsize=256)  # rates are settings, so there are few different rates
def microseconds_per_unit(rate: float) -> int:
    """The microseconds after which one unit is available again, rounded up so that the rate is never exceeded."""
    numerator, denominator = rate.as_integer_ratio()
    return -(-MICROSECONDS * denominator // numerator)


def describe(allowed: bool, tat: int, now: int, *, interval: int, burst: int, cost: int) -> Decision:  # noqa: FBT001
    """The `Decision` about a request. `tat` is the theoretical arrival time after the decision, and `interval` the
    microseconds per unit of cost.
    """
    free = burst * interval - (tat - now)
    return Decision(
        allowed=allowed,
        tat=tat,
        remaining=free // interval,
        retry_after=0.0 if allowed else (cost * interval - free) / MICROSECONDS,
        reset_after=(tat - now) / MICROSECONDS,
    )
