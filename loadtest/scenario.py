"""What a scenario is: how many users at what time, and what has to hold at the end. Pure, without Locust."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """So many users for so many seconds; two of three are buyers. `pause`: seconds, drawn between the two, that each
    thinks between two errands.
    """

    seconds: float
    users: int
    pause: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What has to hold, beside that nothing fails. Shares are of all answers, from 0 to 1; times are 95th percentiles,
    in seconds.
    """

    rate_limited: tuple[float, float]
    """429: at least and at most so many."""
    overloaded: float
    """503: at most so many."""
    answer_seconds: float
    """Of the slowest route, without its refusals."""
    settled_seconds: float
    """From the order's 201 until its client sees it confirmed or cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`orders`: at most so many are placed."""

    stages: Sequence[Stage]
    orders: int
    limits: Limits

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What came of a run; `slowest` is the route and its 95th percentile in seconds, `settled` likewise."""

    answers: int
    failed: int
    given_up: int
    """Refused until their user's patience ended."""
    exceptions: int
    """In our own code: what it did not expect."""
    rate_limited: int
    overloaded: int
    slowest: tuple[str, float]
    placed: int
    unsettled: int
    """Placed, and not seen to end as its card and its cancellation say."""
    settled: float


@dataclass(frozen=True, slots=True)
class Line:
    holds: bool
    text: str

    def __str__(self) -> str:
        return f"{'✔ holds    ' if self.holds else '✘ violated '} {self.text}"


def judge(tally: Tally, limits: Limits) -> Iterator[Line]:
    """A line per limit; nothing that was not tried holds."""
    answers, (least, most) = tally.answers, limits.rate_limited
    yield Line(
        answers > 0 and tally.failed == 0 and tally.given_up == 0,
        f"{tally.failed:,} of {answers:,} requests failed, {tally.given_up:,} were given up after refusals only",
    )
    refused = tally.rate_limited / max(1, answers)
    yield Line(
        least <= refused <= most,
        f"{tally.rate_limited:,} were over a client's limit (429), {refused:.1%}; expected {least:.0%} to {most:.0%}",
    )
    shed = tally.overloaded / max(1, answers)
    yield Line(
        shed <= limits.overloaded,
        f"{tally.overloaded:,} found the service overloaded (503), {shed:.1%}; allowed {limits.overloaded:.0%}",
    )
    if tally.exceptions:
        yield Line(holds=False, text=f"{tally.exceptions:,} errands ended with an exception")
    route, seconds = tally.slowest
    yield Line(
        answers > 0 and seconds <= limits.answer_seconds,
        f"95 % of the answers of {route} came within {seconds:.2f} s; allowed {limits.answer_seconds:g} s",
    )
    yield Line(
        tally.placed > 0 and tally.unsettled == 0,
        f"{tally.unsettled:,} of {tally.placed:,} orders did not end as their card and their cancellation say",
    )
    yield Line(
        tally.placed > 0 and tally.settled <= limits.settled_seconds,
        f"95 % of the orders were settled within {tally.settled:.1f} s; allowed {limits.settled_seconds:g} s",
    )
