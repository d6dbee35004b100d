"""Arbitrary sequences of requests: at once and far apart, dear and cheap; clocks may step back and policies change."""

from dataclasses import dataclass
from typing import Any

from chassis.rate_limiting import MICROSECONDS, Decision, decide
from hypothesis import strategies as st

NOW = 1_700_000_000 * MICROSECONDS


@dataclass(frozen=True)
class Arrival:
    """A request at `now`, `forward` after the one before (0 where the clock stepped back); times in microseconds."""

    now: int
    forward: int
    rate: float
    burst: int
    cost: int

    @property
    def limit(self) -> dict[str, Any]:
        return {"rate": self.rate, "burst": self.burst}


rates = st.floats(min_value=0.01, max_value=10_000)
bursts = st.integers(min_value=1, max_value=20)
_steps = st.one_of(st.just(0), st.integers(0, 1_000), st.integers(0, 5 * MICROSECONDS))
_steps_back = st.integers(-MICROSECONDS, 0)


@st.composite
def arrivals(draw: st.DrawFn, *, policies: int = 1, steps_back: bool = False) -> list[Arrival]:
    """Of one principal, under as many policies, any of which may hold when a request arrives."""
    limits = draw(st.lists(st.tuples(rates, bursts), min_size=1, max_size=policies))
    move = st.tuples(
        st.one_of(_steps, _steps_back) if steps_back else _steps, st.integers(1, 25), st.sampled_from(limits)
    )
    found, now = [], NOW
    for step, cost, (rate, burst) in draw(st.lists(move, max_size=30)):
        now += step
        found.append(Arrival(now, max(step, 0), rate, burst, min(cost, burst)))
    return found


unsteady_arrivals = arrivals(policies=3, steps_back=True)


def decided(sequence: list[Arrival]) -> list[tuple[Arrival, Decision]]:
    """What the pure function says to each."""
    tat, results = 0, []
    for one in sequence:
        decision = decide(tat, one.now, cost=one.cost, **one.limit)
        tat = decision.tat
        results.append((one, decision))
    return results
