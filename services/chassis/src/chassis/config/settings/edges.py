"""Limits that fit: the calls that a service's callers may cause are at most the calls that its dependencies admit.

An edge is a pair of a caller and the dependency that it calls. The setting `rate_limit.edges` has the calls per second
of each edge. This setting belongs in the common configuration file, because both sides obey it: the dependency admits
so many calls, and the caller sends no more. A process whose limits do not fit does not start. The Helm chart also adds
up these calls, before the chart is installed (`templates/_limits.tpl`). A test compares the chart's sum with the sum of
this module.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from chassis.config.settings.callers import RateLimitSettings

BURST_SECONDS = 5.0
"""The burst of an edge (a caller and its dependency): after a pause, the dependency admits the calls of this many
seconds at once. The caller sends at most half of them at once, so that the dependency also admits calls that arrive
closer together than they were sent.
"""
_TOLERANCE = 1e-9
"""The relative error that floating-point numbers may add to a sum."""


class Causes(NamedTuple):
    """The calls that the code of a service causes: a request that takes `units` from its caller's rate limit causes at
    most `calls` calls to `dependency`, now or later.
    """

    dependency: str
    calls: int
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSum:
    """The calls per second that the callers of `service` may cause at a dependency, all callers together."""

    service: str
    causes: Causes
    callers: tuple[tuple[str, float], ...]
    """For each group of callers: how `__str__` writes the group, and the units per second that its limit allows."""

    @property
    def total(self) -> float:
        return sum(rate for _, rate in self.callers) * self.causes.calls / self.causes.units

    def fits(self, rate: float) -> bool:
        return self.total <= rate * (1 + _TOLERANCE)

    def __str__(self) -> str:
        terms = "; ".join(term for term, _ in self.callers) or "no callers"
        return f"({terms}) × {self.causes.calls} ÷ {self.causes.units} = {self.total:g}"


def call_sum(limits: RateLimitSettings, service: str, causes: Causes) -> CallSum:
    """The calls per second: the units per second that all callers of `service` together may take, times `calls`,
    divided by `units`.

    The sum does not count bursts, because the calls of a burst wait in the queue or in the limiter of outgoing calls.
    """
    return CallSum(service=service, causes=causes, callers=(*_clients(limits), *_services(limits, service)))


def _clients(limits: RateLimitSettings) -> Iterator[tuple[str, float]]:
    numbers = Counter(limits.tier_of.values())
    standard = numbers.pop("standard", 0) + max(0, limits.clients - len(limits.tier_of))
    if standard:
        yield _term("clients", standard, limits.rate_per_second)
    for tier, number in sorted(numbers.items()):
        yield _term(tier, number, limits.rate_per_second * limits.tiers[tier])


def _term(name: str, number: int, rate: float) -> tuple[str, float]:
    return f"{name}: {number} × {rate:g} = {number * rate:g}", number * rate


def _services(limits: RateLimitSettings, service: str) -> Iterator[tuple[str, float]]:
    for caller, edges in sorted(limits.edges.items()):
        if rate := edges.get(service):
            yield f"{caller}: {rate:g}", rate
