"""Whether a run kept its scenario's limits. Pure, without Locust."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scenario import Limits

FAST_ENOUGH = 0.05
"""Seconds: below it a median that grows is noise, not a drift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What came of a run; `slowest` is the route and its 95th percentile in seconds, `settled` likewise."""

    answers: int
    """Those to abusers, and of webhooks, are not in it, nor in what was refused."""
    failed: int
    """Of all."""
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
    abuse: tuple[int, int] = (0, 0)
    """Answers to abusers, and those of them that were 429."""
    webhooks: tuple[int, float] = (0, 0.0)
    """Answers to webhooks, and their 99th percentile in seconds."""
    goodput: Sequence[float] = ()
    """Orders settled per second, in each stage of hasty buyers."""
    recovered: float = 0.0
    """Seconds from the last of these stages to the last 503."""
    first_requests: Sequence[tuple[float, float]] = ()
    """When each was meant to be made, and how long its answer took from then."""
    trouble: str = ""
    """Why the run could not be made as its scenario says."""


@dataclass(frozen=True, slots=True)
class Line:
    holds: bool
    text: str

    def __str__(self) -> str:
        return f"{'✔ holds    ' if self.holds else '✘ violated '} {self.text}"


def judge(tally: Tally, limits: Limits) -> Iterator[Line]:
    """A line per limit; nothing that was not tried holds."""
    answers, (least, most) = tally.answers, limits.rate_limited
    total = answers + tally.abuse[0] + tally.webhooks[0]
    yield Line(
        answers > 0 and tally.failed == 0 and tally.given_up == 0,
        f"{tally.failed:,} of {total:,} requests failed, {tally.given_up:,} were given up after refusals only",
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
    if tally.trouble:
        yield Line(holds=False, text=tally.trouble)
    yield from _special(tally, limits)


def _special(tally: Tally, limits: Limits) -> Iterator[Line]:
    """What only some scenarios ask for."""
    if limits.abusers_refused is not None:
        answers, refused = tally.abuse
        share = refused / max(1, answers)
        yield Line(
            answers > 0 and share >= limits.abusers_refused,
            f"{refused:,} of {answers:,} answers to abusers were 429, {share:.1%}; "
            f"expected {limits.abusers_refused:.0%} or more",
        )
    if limits.acknowledged_seconds is not None:
        answers, seconds = tally.webhooks
        yield Line(
            answers > 0 and seconds <= limits.acknowledged_seconds,
            f"99 % of {answers:,} webhooks were answered within {seconds:.2f} s; "
            f"allowed {limits.acknowledged_seconds:g} s",
        )
    if limits.goodput is not None:
        first, *later = tally.goodput or [0.0]
        each = ", ".join(f"{rate:.2f}" for rate in tally.goodput)
        yield Line(
            first > 0 and all(rate >= limits.goodput * first for rate in later),
            f"beyond capacity {each} orders were settled a second; "
            f"expected {limits.goodput:.0%} of the first figure or more",
        )
    if limits.recovered_seconds is not None:
        yield Line(
            tally.overloaded > 0 and tally.recovered <= limits.recovered_seconds,
            f"the last 503 came {max(0.0, tally.recovered):.1f} s after the load; "
            f"allowed {limits.recovered_seconds:g} s",
        )
    if limits.drift is not None:
        first, last = drift(tally.first_requests)
        yield Line(
            first > 0 and last <= max(limits.drift * first, FAST_ENOUGH),
            f"half of the last third's first answers came within {last:.3f} s, "
            f"of the first third's within {first:.3f} s; allowed {max(limits.drift * first, FAST_ENOUGH):.3f} s",
        )


def goodput(settled_at: Sequence[float], stages: Sequence[tuple[float, float]]) -> list[float]:
    """Orders settled per second, in each of these stages."""
    return [sum(begin <= at < end for at in settled_at) / (end - begin) for begin, end in stages]


def drift(first_requests: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The medians of the first third of them and of the last: a busy moment of the machine moves the 95th percentile of
    either, and what leaks or piles up slows every answer.
    """
    taken = [seconds for _, seconds in sorted(first_requests)]
    third = len(taken) // 3
    return percentile(taken[:third], 0.5), percentile(taken[len(taken) - third :], 0.5)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; 0 of none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0.0
