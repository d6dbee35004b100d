"""What a scenario is: who comes how often at what time, and what has to hold at the end. Pure, without Locust.

Arrivals are open-loop: each has a moment of its own, whatever became of those before it. Users who wait for an answer
before they ask again would ask a slow service less, and hide how slow it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`arrivals`: users of a class (`users/`) that come per second, on average and at random. `provider`: what the
    simulated payment provider does wrong meanwhile (its switches).
    """

    seconds: float
    arrivals: Mapping[str, float]
    provider: Mapping[str, float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What has to hold, beside that nothing fails. Shares are of all answers, from 0 to 1; times are in seconds.

    Abusers have limits of their own and do not count in the others'; nor do webhooks, except in what fails.
    """

    rate_limited: tuple[float, float]
    """429: at least and at most so many."""
    overloaded: float
    """503: at most so many."""
    answer_seconds: float
    """95th percentile of the slowest route, without its refusals; of a user's first request counted from the moment at
    which it was meant to be made."""
    settled_seconds: float
    """95th percentile, from the order's 201 until its client sees it confirmed or cancelled."""
    abusers_refused: float | None = None
    """429 to abusers: at least so many."""
    acknowledged_seconds: float | None = None
    """99th percentile of webhooks' answers, from the moment at which each was meant to be sent."""
    goodput: float | None = None
    """Per second, each later stage of hasty buyers settles at least this share of the orders that the first of these
    stages settles."""
    recovered_seconds: float | None = None
    """No 503 comes later than this after the last stage of hasty buyers."""
    drift: float | None = None
    """The last third's median of first requests is at most so many times the first third's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A user of the class `user` comes `at` so many seconds after the start; `number` counts all arrivals from 0."""

    at: float
    user: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`orders`: at most so many are placed. `product`: the one that everybody wants; none: any. `patience`: seconds
    that a user repeats what is refused for now, and follows an order.
    """

    stages: Sequence[Stage]
    limits: Limits
    orders: int = 300
    product: str | None = None
    patience: float = 60.0

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def users(self) -> frozenset[str]:
        return frozenset(user for stage in self.stages for user in stage.arrivals)

    def overloads(self, *, within: float) -> list[tuple[float, float]]:
        """The begin and the end of each stage of hasty buyers, in a run that takes `within` seconds."""
        found, begin = [], 0.0
        for stage in self.stages:
            end = begin + stage.seconds * within / self.seconds
            if "HastyBuyer" in stage.arrivals:
                found.append((begin, end))
            begin = end
        return found

    def stage_at(self, elapsed: float, *, within: float) -> Stage | None:
        """The stage, `elapsed` seconds after the start of a run whose stages are stretched or squeezed to fill
        `within` seconds; None at its end.
        """
        end = 0.0
        for stage in self.stages:
            end += stage.seconds * within / self.seconds
            if elapsed < end:
                return stage
        return None

    def arrivals(self, *, seed: int, within: float, rate: float = 1.0) -> list[Arrival]:
        """All of a run, in order: Poisson processes, one per class, with `rate` times as many as the stages say. The
        same for the same arguments.
        """
        moments: list[tuple[float, str]] = []
        for user in sorted(self.users):
            rng = Random(f"{seed}:{user}")
            begin = 0.0
            for stage in self.stages:
                end = begin + stage.seconds * within / self.seconds
                moments += [(at, user) for at in _moments(rng, rate * stage.arrivals.get(user, 0.0), begin, end)]
                begin = end
        return [Arrival(at=at, user=user, number=n) for n, (at, user) in enumerate(sorted(moments))]


def _moments(rng: Random, per_second: float, begin: float, end: float) -> list[float]:
    moments = []
    at = begin
    while per_second > 0 and (at := at + rng.expovariate(per_second)) < end:
        moments.append(at)
    return moments
