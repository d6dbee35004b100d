"""GCRA by property, its fields, the local limiter, and how many a limit really admits. No server is needed."""

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import http_sf
import pytest
from arrivals import NOW, Arrival, arrivals, bursts, decided, rates, unsteady_arrivals
from chassis.config.settings import LimitSettings, RateLimitSettings
from chassis.rate_limiting import (
    MICROSECONDS,
    Decision,
    LocalLimiter,
    Policy,
    add_fields,
    decide,
    default_policy,
)
from chassis.rate_limiting.gcra import microseconds_per_unit
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError


@given(sequence=arrivals())
@example(sequence=[Arrival(NOW, 0, 3.0, 1, 1), Arrival(NOW + 333_333, 333_333, 3.0, 1, 1)])  # a third is a little more
def test_no_span_admits_more_than_the_burst_and_what_the_rate_refills(sequence: list[Arrival]) -> None:
    admitted = [one for one, decision in decided(sequence) if decision.allowed]
    for first in range(len(admitted)):
        spent = 0
        for one in admitted[first:]:
            spent += one.cost
            span = one.now - admitted[first].now
            assert spent <= one.burst + math.floor(Fraction(one.rate) * span / MICROSECONDS)


@given(sequence=unsteady_arrivals)
def test_neither_a_clock_that_steps_nor_a_policy_that_changes_admits_more(sequence: list[Arrival]) -> None:
    """Counted is the time by which the clock went forward; a policy that begins may have its own burst spent."""
    results = decided(sequence)
    for first in range(len(results)):
        spent, allowance, stint = 0, 0, Fraction(0)
        before: Arrival | None = None
        for one, decision in results[first:]:
            if before is None or one.limit != before.limit:
                allowance += one.burst + math.floor(stint)
                stint = Fraction(0)
            else:
                stint += Fraction(one.rate) * one.forward / MICROSECONDS
            before = one
            spent += one.cost if decision.allowed else 0
            assert spent <= allowance + math.floor(stint)


@given(sequence=unsteady_arrivals)
def test_a_refused_caller_is_admitted_after_retry_after_and_not_a_microsecond_earlier(sequence: list[Arrival]) -> None:
    for one, refused in decided(sequence):
        if refused.allowed:
            continue
        ready = one.now + round(refused.retry_after * MICROSECONDS)
        assert decide(refused.tat, ready, cost=one.cost, **one.limit).allowed
        assert not decide(refused.tat, ready - 1, cost=one.cost, **one.limit).allowed


@given(sequence=unsteady_arrivals)
def test_remaining_is_what_can_be_spent_at_once_and_no_unit_more(sequence: list[Arrival]) -> None:
    for one, decision in decided(sequence):
        left = decision.remaining
        assert left == 0 or decide(decision.tat, one.now, cost=left, **one.limit).allowed
        assert left == one.burst or not decide(decision.tat, one.now, cost=left + 1, **one.limit).allowed


@given(tat=st.integers(NOW - MICROSECONDS, NOW + 10_000 * MICROSECONDS), rate=rates, burst=bursts)
@example(tat=2 * NOW, rate=1.0, burst=5)
def test_a_clock_that_steps_back_locks_nobody_out_for_longer_than_a_burst(tat: int, rate: float, burst: int) -> None:
    lockout = burst * microseconds_per_unit(rate)
    decision = decide(tat, NOW, rate=rate, burst=burst, cost=1)
    assert decision.reset_after <= lockout / MICROSECONDS
    assert decide(decision.tat, NOW + lockout, rate=rate, burst=burst, cost=1).allowed


def test_a_smaller_policy_locks_nobody_out_for_longer_than_its_own_burst_takes() -> None:
    spent = decide(0, NOW, rate=1.0, burst=100, cost=100)
    assert decide(spent.tat, NOW, rate=1.0, burst=5, cost=1).retry_after == 1
    assert decide(spent.tat, NOW + MICROSECONDS, rate=10.0, burst=5, cost=5).retry_after == 0.5


def test_the_local_limiter_remembers_a_bounded_number_of_principals() -> None:
    local = LocalLimiter(max_keys=2, clock=lambda: 1000.0)
    policy = Policy("local", "standard", rate=0.001, burst=1)
    admitted = [local.check(key, policy, cost=1).allowed for key in ["a", "b", "a", "c", "a", "b"]]
    assert admitted == [True, True, False, True, False, True]
    assert len(local._tats) == 2


def test_three_limiters_in_memory_admit_the_limit_three_times_and_their_shares_once() -> None:
    """Another version that goes wrong."""
    policy = Policy("memory", "standard", rate=0.001, burst=9)
    replicas = [LocalLimiter(max_keys=1, clock=lambda: 1000.0) for _ in range(3)]
    for each, admitted in [(policy, 27), (policy.share(3), 9)]:
        key = str(each.burst)
        assert sum(replicas[n % 3].check(key, each, cost=1).allowed for n in range(60)) == admitted


def test_a_route_dearer_than_the_local_share_still_passes_when_rested() -> None:
    local = LocalLimiter(max_keys=2, clock=lambda: 1000.0)
    share = Policy("dear", "standard", rate=1.0, burst=10).share(5)
    assert [local.check("a", share, cost=8).allowed for _ in range(2)] == [True, False]


def test_a_tier_multiplies_the_limit_and_an_unnamed_one_leaves_it() -> None:
    limits = RateLimitSettings(rate_per_second=10, burst=50, tiers={"partner": 4.0})
    assert default_policy(limits, tier="partner") == Policy("default", "partner", rate=40.0, burst=200)
    assert default_policy(limits, tier="standard") == Policy("default", "standard", rate=10.0, burst=50)


def test_a_limit_that_redis_could_not_count_exactly_is_refused_at_start() -> None:
    for wrong in [{"rate_per_second": 0.0009}, {"rate_per_second": 10_001}, {"burst": 1_000_001}, {"burst": 0}]:
        with pytest.raises(ValidationError):
            LimitSettings(**wrong)
    with pytest.raises(ValidationError, match="tier gold is above"):
        RateLimitSettings(burst=100_000, tiers={"gold": 11})
    longest = RateLimitSettings().model_copy(update={"rate_per_second": 0.001, "burst": 1_000_000})
    assert NOW + longest.burst * microseconds_per_unit(longest.rate_per_second) < 2**53


def test_the_fields_are_structured_and_say_what_is_left_and_when_it_is_whole_again() -> None:
    policy = Policy("burst", "standard", rate=100 / 60, burst=100)
    tat = 0
    for _ in range(50):
        tat = (decision := decide(tat, NOW, rate=policy.rate, burst=policy.burst, cost=1)).tat
    fields = fields_of(decision, policy)
    assert fields == {"RateLimit-Policy": '"burst";q=100;w=60', "RateLimit": '"burst";r=50;t=30'}
    assert http_sf.parse(fields["RateLimit-Policy"].encode(), tltype="list") == [("burst", {"q": 100, "w": 60})]
    assert http_sf.parse(fields["RateLimit"].encode(), tltype="list") == [("burst", {"r": 50, "t": 30})]


def test_several_policies_share_the_fields_each_under_its_name() -> None:
    fields: dict[str, str] = {}
    for policy in [Policy("default", "standard", rate=10, burst=50), Policy("bad_credentials", "standard", 1, 60)]:
        add_fields(fields, decide(0, NOW, rate=policy.rate, burst=policy.burst, cost=5), policy)
    assert http_sf.parse(fields["RateLimit-Policy"].encode(), tltype="list") == [
        ("default", {"q": 50, "w": 5}),
        ("bad_credentials", {"q": 60, "w": 60}),
    ]
    assert http_sf.parse(fields["RateLimit"].encode(), tltype="list") == [
        ("default", {"r": 45, "t": 1}),
        ("bad_credentials", {"r": 55, "t": 5}),
    ]


def test_a_refusal_carries_the_fields_and_a_whole_retry_after() -> None:
    policy = Policy("burst", "standard", rate=0.4, burst=1)
    spent = decide(0, NOW, rate=policy.rate, burst=policy.burst, cost=1)
    refused = decide(spent.tat, NOW, rate=policy.rate, burst=policy.burst, cost=1)
    assert refused.retry_after == 2.5
    assert fields_of(refused, policy) == {
        "RateLimit-Policy": '"burst";q=1;w=3',
        "RateLimit": '"burst";r=0;t=3',
        "Retry-After": "3",
    }


# What a limit of 100 a minute admits at worst: the table of docs/patterns/rate_limiting.md

LIMIT, WINDOW = 100, 60 * MICROSECONDS
BOUNDARY = NOW - NOW % WINDOW + WINDOW
TWICE_AROUND_THE_BOUNDARY = [BOUNDARY - 1_000] * LIMIT + [BOUNDARY] * LIMIT
FOR_A_MINUTE = [
    *TWICE_AROUND_THE_BOUNDARY,
    *range(BOUNDARY, BOUNDARY - 1_000 + WINDOW, 100_000),
    BOUNDARY - 1_001 + WINDOW,
]

type Admits = Callable[[int], bool]


def fixed_window() -> Admits:
    """The version that goes wrong: a counter per window."""
    counts: Counter[int] = Counter()

    def admits(now: int) -> bool:
        counts[now // WINDOW] += 1
        return counts[now // WINDOW] <= LIMIT

    return admits


def sliding_counter() -> Admits:
    """The window before counts by the part of it that a window back from now still covers."""
    counts: Counter[int] = Counter()

    def admits(now: int) -> bool:
        window, into = divmod(now, WINDOW)
        if counts[window] + counts[window - 1] * (WINDOW - into) / WINDOW > LIMIT - 1:
            return False
        counts[window] += 1
        return True

    return admits


def gcra(*, burst: int) -> Admits:
    tat = 0

    def admits(now: int) -> bool:
        nonlocal tat
        decision = decide(tat, now, rate=(LIMIT if burst == LIMIT else LIMIT - burst) / 60, burst=burst, cost=1)
        tat = decision.tat
        return decision.allowed

    return admits


@pytest.mark.parametrize(
    ("admits", "at_the_boundary", "in_a_minute"),
    [
        (fixed_window, 200, 200),
        (sliding_counter, 100, 199),
        (partial(gcra, burst=LIMIT), 100, 199),
        (partial(gcra, burst=LIMIT // 2), 50, 99),
    ],
    ids=["fixed window", "sliding counter", "GCRA, burst 100, 100 a minute", "GCRA, burst 50, 50 a minute"],
)
def test_a_fixed_window_admits_twice_its_limit_around_a_boundary_and_gcra_does_not(
    admits: Callable[[], Admits], at_the_boundary: int, in_a_minute: int
) -> None:
    """The version that goes wrong, of docs/patterns/rate_limiting.md."""
    assert sum(map(admits(), TWICE_AROUND_THE_BOUNDARY)) == at_the_boundary
    assert sum(map(admits(), FOR_A_MINUTE)) == in_a_minute


def fields_of(decision: Decision, policy: Policy) -> dict[str, str]:
    fields: dict[str, str] = {}
    add_fields(fields, decision, policy)
    return fields
