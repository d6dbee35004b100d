"""Circuit breaker: opens on rates, lets exactly its permits try, and recovers without help."""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from captured_logs import captured_logs
from chassis.circuit_breaker import BreakerRegistry, BreakerSnapshot, CircuitBreaker, Mode
from chassis.circuit_breaker.breaker import failures, mode_gauge, overruled, rejections, state_gauge, transitions
from chassis.circuit_breaker.outcomes import CallOutcome, outcome_of
from chassis.circuit_breaker.state_machine import Admitted, Refused, StateMachine
from chassis.config.settings import BreakerSettings
from chassis.errors import (
    BreakerOpen,
    BulkheadFull,
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
)
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

SETTINGS = BreakerSettings(
    failure_rate=0.5,
    slow_call_rate=0.8,
    slow_call_duration=1,
    minimum_calls=4,
    window_size=10,
    window_seconds=60,
    open_seconds=10,
    max_open_seconds=30,
    open_jitter=0,
    half_open_calls=2,
)
OUTCOMES: list[CallOutcome] = ["success", "failure", "cut_short", "ignored"]
MODES: list[Mode] = ["automatic", "forced_open", "disabled", "observe_only"]
FAILED = DependencyFailed("d", "answered 500", status=500)


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def machine(**changes: float) -> StateMachine:
    return StateMachine(SETTINGS.model_copy(update=changes), lambda: 0.5)


def admitted(m: StateMachine, now: float) -> Admitted:
    decision = m.admit(now)
    assert isinstance(decision, Admitted)
    return decision


def call(m: StateMachine, outcome: CallOutcome, *, now: float = 0.0, duration: float = 0.0) -> None:
    m.settle(admitted(m, now), outcome, duration=duration, now=now)


def state_of(m: StateMachine | CircuitBreaker) -> str:
    """The state, read anew: a type checker takes it for unchanged after an assertion."""
    return m.state


def opened(*, at: float = 0.0, **changes: float) -> StateMachine:
    m = machine(**changes)
    for _ in range(4):
        call(m, "failure", now=at)
    assert state_of(m) == "open"
    return m


def test_half_of_the_calls_failing_opens_it_even_though_no_two_fail_in_a_row() -> None:
    """A breaker that counts consecutive failures would never open here."""
    m = machine(minimum_calls=10)
    for _ in range(5):
        call(m, "success")
        call(m, "failure")
    assert state_of(m) == "open"


class CountsConsecutiveFailures:
    """The usual listing: five failures in a row open it, and any success starts the count over."""

    def __init__(self) -> None:
        self.in_a_row = 0

    @property
    def is_open(self) -> bool:
        return self.in_a_row >= 5

    def settle(self, outcome: CallOutcome) -> None:
        self.in_a_row = self.in_a_row + 1 if outcome == "failure" else 0


def test_a_breaker_that_counts_consecutive_failures_never_opens_while_four_calls_in_five_fail() -> None:
    usual, ours = CountsConsecutiveFailures(), machine()
    opened_after = None
    for n in range(1000):
        outcome: CallOutcome = "success" if n % 5 == 4 else "failure"
        usual.settle(outcome)
        assert not usual.is_open
        if opened_after is None:
            call(ours, outcome)
            opened_after = n + 1 if state_of(ours) == "open" else None
    assert opened_after == SETTINGS.minimum_calls


def test_less_than_the_failure_rate_leaves_it_closed() -> None:
    m = machine()
    for _ in range(20):
        for outcome in ("success", "success", "failure"):
            call(m, outcome)
    assert state_of(m) == "closed"


def test_rates_mean_nothing_before_the_minimum_of_calls() -> None:
    m = machine()
    for _ in range(3):
        call(m, "failure")
    assert state_of(m) == "closed"


def test_slow_calls_open_it_as_failures_do() -> None:
    m = machine()
    for _ in range(4):
        call(m, "success", duration=1.0)
    assert state_of(m) == "open"


def test_old_failures_leave_the_window_by_time() -> None:
    m = machine()
    for _ in range(3):
        call(m, "failure", now=0)
    call(m, "failure", now=60)
    assert state_of(m) == "closed"


def test_old_failures_leave_the_window_by_count() -> None:
    m = machine(failure_rate=0.9)
    for _ in range(3):
        call(m, "failure")
    for _ in range(10):
        call(m, "success")
    assert m._window.failed == 0


def test_open_it_refuses_until_its_time_is_over_and_says_how_long_that_is() -> None:
    m = opened(at=100)
    assert m.admit(103) == Refused(7)
    assert isinstance(m.admit(110), Admitted)
    assert state_of(m) == "half_open"


def test_half_open_it_admits_its_permits_and_nobody_else_while_they_are_in_flight() -> None:
    m = opened()
    admitted(m, 10), admitted(m, 10)
    assert all(isinstance(m.admit(10), Refused) for _ in range(1000))


def test_as_many_successes_as_permits_close_it() -> None:
    m = opened()
    call(m, "success", now=10)
    assert state_of(m) == "half_open"
    call(m, "success", now=10)
    assert state_of(m) == "closed"


@pytest.mark.parametrize(("outcome", "duration"), [("failure", 0.0), ("success", 1.0)])
def test_one_failed_or_slow_trial_opens_it_again(outcome: CallOutcome, duration: float) -> None:
    m = opened()
    call(m, outcome, now=10, duration=duration)
    assert state_of(m) == "open"


def test_a_permit_that_proved_nothing_comes_back() -> None:
    m = opened()
    for _ in range(100):
        call(m, "ignored", now=10)
    assert state_of(m) == "half_open"


def test_a_recovered_breaker_does_not_hold_old_failures_against_the_dependency() -> None:
    m = opened()
    call(m, "success", now=10)
    call(m, "success", now=10)
    call(m, "failure", now=10)
    for _ in range(3):
        call(m, "success", now=10)
    assert state_of(m) == "closed"


def test_a_result_from_an_earlier_term_neither_closes_it_nor_gives_a_permit_back() -> None:
    m = machine()
    late = [admitted(m, 0) for _ in range(2)]
    for _ in range(4):
        call(m, "failure")
    trials = [admitted(m, 10) for _ in range(2)]
    for result in late:
        m.settle(result, "success", duration=10, now=10)
    assert state_of(m) == "half_open"
    assert isinstance(m.admit(10), Refused)
    for trial in trials:
        m.settle(trial, "success", duration=0, now=10)
    assert state_of(m) == "closed"


def test_open_time_doubles_with_each_failed_trial_up_to_its_cap_and_starts_over_once_closed() -> None:
    m = opened()
    now, waits = 0.0, []
    for _ in range(4):
        refused = m.admit(now)
        assert isinstance(refused, Refused)
        waits.append(refused.retry_after)
        now += refused.retry_after
        call(m, "failure", now=now)
    assert waits == [10, 20, 30, 30]
    now += 30
    call(m, "success", now=now)
    call(m, "success", now=now)
    for _ in range(4):
        call(m, "failure", now=now)
    assert m.admit(now) == Refused(10)


@pytest.mark.parametrize(("u", "seconds"), [(0.0, 8), (0.5, 10), (1.0, 12)])
def test_open_time_is_jittered_so_that_replicas_do_not_try_together(u: float, seconds: float) -> None:
    m = StateMachine(SETTINGS.model_copy(update={"open_jitter": 0.2}), lambda: u)
    for _ in range(4):
        call(m, "failure")
    refused = m.admit(0)
    assert isinstance(refused, Refused)
    assert refused.retry_after == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "success"),
        (DependencyRejected("d", 404, b""), "success"),
        (DependencyTimeout("d", 1), "failure"),
        (DependencyTimeout("d", 1, cut_short=True), "cut_short"),
        (FAILED, "failure"),
        (DependencyUnavailable("d", "no connection"), "failure"),
        (DependencyUnavailable("d", "answered 429", status=429), "ignored"),
        (BulkheadFull("d", 1), "ignored"),
        (asyncio.CancelledError(), "ignored"),
        (RuntimeError(), "ignored"),
    ],
    ids=repr,
)
def test_only_what_the_dependency_did_wrong_counts_as_failure(
    error: BaseException | None, outcome: CallOutcome
) -> None:
    assert outcome_of(error) == outcome


def breaker(name: str, clock: FakeClock, **changes: float) -> CircuitBreaker:
    return CircuitBreaker(name, "charge", SETTINGS.model_copy(update=changes), clock=clock, random=lambda: 0.5)


def fail(b: CircuitBreaker, times: int = 4) -> None:
    for _ in range(times):
        with pytest.raises(DependencyFailed), b.permit():
            raise FAILED


async def test_of_a_thousand_concurrent_callers_exactly_the_permits_reach_a_recovering_dependency() -> None:
    clock = FakeClock()
    b = breaker("recovering", clock)
    fail(b)
    clock.now = 10
    release = asyncio.Event()
    reached = 0

    async def caller() -> None:
        nonlocal reached
        with b.permit():
            reached += 1
            await release.wait()

    callers = [asyncio.create_task(caller()) for _ in range(1000)]
    refused, _ = await asyncio.wait(callers[2:])
    assert reached == 2
    assert all(isinstance(task.exception(), BreakerOpen) for task in refused)
    release.set()
    await asyncio.gather(*callers[:2])
    assert state_of(b) == "closed"


class CountsSuccesses:
    """The usual listing: half-open, it counts what has come back and not what is under way."""

    def __init__(self) -> None:
        self.successes = 0

    async def call(self, function: Callable[[], Awaitable[None]]) -> None:
        """Let the call through while fewer than two have succeeded."""
        if self.successes < 2:
            await function()
            self.successes += 1


async def test_a_half_open_breaker_that_counts_successes_lets_every_concurrent_caller_through() -> None:
    reached = 0

    async def recovering() -> None:
        nonlocal reached
        reached += 1
        await asyncio.sleep(0)

    usual = CountsSuccesses()
    await asyncio.gather(*(usual.call(recovering) for _ in range(1000)))
    assert reached == 1000


async def test_a_cancelled_a_timed_out_and_a_broken_trial_each_give_their_permit_back() -> None:
    clock = FakeClock()
    b = breaker("cancelled", clock, half_open_calls=1)
    fail(b)
    clock.now = 10

    async def hang() -> None:
        with b.permit():
            await asyncio.Event().wait()

    for _ in range(3):
        task = asyncio.create_task(hang())
        await asyncio.sleep(0)
        with pytest.raises(BreakerOpen), b.permit():
            pass
        task.cancel()
        await asyncio.wait([task])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await hang()
    with pytest.raises(RuntimeError), b.permit():
        raise RuntimeError
    with b.permit():
        assert state_of(b) == "half_open"
    assert state_of(b) == "closed"


def test_an_open_breaker_rejects_without_calling_and_says_when_to_come_back() -> None:
    clock = FakeClock()
    b = breaker("rejecting", clock)
    fail(b)
    clock.now = 4
    with pytest.raises(BreakerOpen) as rejected, b.permit():
        pytest.fail("the call was made")
    assert rejected.value.retry_after == 6
    assert rejected.value.outcome == "not_run"


def test_time_before_the_restart_is_not_counted_as_the_dependencys() -> None:
    clock = FakeClock()
    b = breaker("patient", clock)
    for _ in range(10):
        with b.permit() as permit:
            clock.now += 5
            permit.restart()
            clock.now += 0.1
    assert state_of(b) == "closed"


def test_each_preset_of_the_page_is_one_that_the_settings_allow() -> None:
    page = (Path(__file__).parents[2] / "docs" / "patterns" / "circuit_breaker.md").read_text()
    presets = re.findall(r"^\| [a-z, ]+ \| (\d+) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    assert len(presets) == 4
    for minimum_calls, open_seconds, max_open_seconds in presets:
        BreakerSettings.model_validate(
            {"minimum_calls": minimum_calls, "open_seconds": open_seconds, "max_open_seconds": max_open_seconds}
        )


def test_the_metrics_tell_state_failures_rejections_and_transitions() -> None:
    clock = FakeClock()
    b = breaker("measured", clock, half_open_calls=1)
    labels = ("measured", "charge")
    assert state_gauge.labels(*labels)._value.get() == 0
    fail(b)
    assert state_gauge.labels(*labels)._value.get() == 1
    assert failures.labels(*labels)._value.get() == 4
    with pytest.raises(BreakerOpen), b.permit():
        pass
    assert rejections.labels(*labels)._value.get() == 1
    clock.now = 10
    with b.permit():
        assert state_gauge.labels(*labels)._value.get() == 2
    assert state_gauge.labels(*labels)._value.get() == 0
    for source, target in [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]:
        assert transitions.labels(*labels, source, target)._value.get() == 1


def in_mode(mode: Mode, clock: FakeClock, *, seconds: float = 60) -> CircuitBreaker:
    b = breaker(mode, clock)
    b.set_mode(mode, seconds=seconds)
    return b


def test_forced_open_it_refuses_a_healthy_dependency_for_the_stated_time_and_ends_in_a_trial() -> None:
    clock = FakeClock()
    b = in_mode("forced_open", clock)
    assert (state_of(b), state_gauge.labels("forced_open", "charge")._value.get()) == ("open", 1)
    clock.now = 59.9
    with pytest.raises(BreakerOpen), b.permit():
        pytest.fail("the call was made")
    clock.now = 60
    with b.permit():
        assert state_of(b) == "half_open"
    assert b.snapshot().mode == "automatic"


def test_forced_open_for_hours_it_sends_nobody_away_for_longer_than_the_longest_open_time() -> None:
    b = in_mode("forced_open", FakeClock(), seconds=7200)
    with pytest.raises(BreakerOpen) as refused, b.permit():
        pass
    assert refused.value.retry_after == 30


def test_forced_open_and_let_go_early_it_tries_with_its_permits() -> None:
    clock = FakeClock()
    b = in_mode("forced_open", clock, seconds=7200)
    b.set_mode("automatic", seconds=1)
    admitted_now = [b.admit(), b.admit()]
    with pytest.raises(BreakerOpen):
        b.admit()
    for trial in admitted_now:
        b.settle(trial, None, started=0)
    assert state_of(b) == "closed"


def test_disabled_it_lets_everything_through_and_afterwards_holds_nothing_of_it_against_the_dependency() -> None:
    clock = FakeClock()
    b = breaker("disabled", clock)
    fail(b)
    b.set_mode("disabled", seconds=60)
    fail(b, times=100)
    assert (state_of(b), failures.labels("disabled", "charge")._value.get()) == ("closed", 104)
    clock.now = 60
    fail(b, times=3)
    assert state_of(b) == "closed"
    fail(b, times=1)
    assert state_of(b) == "open"


def test_observing_only_it_judges_as_ever_refuses_nothing_and_counts_what_it_would_have_refused() -> None:
    clock = FakeClock()
    b = in_mode("observe_only", clock)
    labels = ("observe_only", "charge")
    fail(b, times=14)
    assert state_of(b) == "open"
    assert overruled.labels(*labels)._value.get() == 10
    assert rejections.labels(*labels)._value.get() == 0
    clock.now = 10
    for _ in range(2):
        with b.permit():
            pass
    assert state_of(b) == "closed"


def test_a_mode_is_a_metric_and_a_line_of_the_log_when_it_begins_and_when_its_time_is_over() -> None:
    clock = FakeClock()
    gauge = mode_gauge.labels("disabled", "charge")
    with captured_logs() as logs:
        b = in_mode("disabled", clock)
        assert (gauge._value.get(), b.snapshot().mode_seconds_left) == (2, 60)
        clock.now = 60
        with b.permit():
            pass
        assert (gauge._value.get(), b.snapshot().mode_seconds_left) == (0, None)
        told = [(line["source"], line["target"]) for line in logs.of("circuit_breaker_mode_changed")]
    assert told == [("automatic", "disabled"), ("disabled", "automatic")]


def test_a_process_has_one_breaker_for_each_dependency_and_operation() -> None:
    registry = BreakerRegistry(clock=FakeClock())
    charge = registry.get("provider", "charge", SETTINGS)
    assert registry.get("provider", "charge", SETTINGS) is charge
    fail(charge)
    registry.get("provider", "refund", SETTINGS)
    assert registry.snapshot() == [
        BreakerSnapshot("provider", "charge", "open", "automatic", None),
        BreakerSnapshot("provider", "refund", "closed", "automatic", None),
    ]


@dataclass
class Model:
    """What a breaker should do, written without regard for speed: it keeps every result of its term."""

    state: str = "closed"
    term: int = 0
    results: list[tuple[float, str, bool]] = field(default_factory=list)
    in_flight: int = 0
    open_until: float = 0.0
    opened: int = 0
    mode: Mode = "automatic"
    mode_until: float = math.inf

    def enter(self, state: str) -> None:
        self.state, self.results, self.in_flight = state, [], 0
        self.term += 1

    def open(self, now: float) -> None:
        self.open_until = now + min(30, 10 * 2**self.opened)
        self.opened += 1
        self.enter("open")

    def set_mode(self, mode: Mode, *, until: float, now: float) -> None:
        """An operator decides until then."""
        if self.mode == "forced_open":
            self.open_until = now
        self.mode, self.mode_until = mode, math.inf if mode == "automatic" else until
        if mode == "forced_open":
            self.open_until = until
            self.enter("open")
        if mode == "disabled":
            self.opened = 0
            self.enter("closed")

    def admit(self, now: float) -> int | None:
        """The term of the call, -1 if it counts for nothing, None if it is refused."""
        if now >= self.mode_until:
            self.set_mode("automatic", until=math.inf, now=now)
        if self.mode == "disabled":
            return -1
        term = self.decide(now)
        return -1 if term is None and self.mode == "observe_only" else term

    def decide(self, now: float) -> int | None:
        if self.state == "open" and now >= self.open_until:
            self.enter("half_open")
        if self.state == "open" or (self.state == "half_open" and self.in_flight + len(self.results) >= 2):
            return None
        self.in_flight += 1
        return self.term

    def settle(self, term: int, outcome: str, now: float, *, slow: bool) -> None:
        if term != self.term:
            return
        self.in_flight -= 1
        if outcome == "ignored" or (outcome == "cut_short" and not slow):
            return
        self.results.append((now, outcome, slow))
        if self.state == "half_open":
            if outcome == "failure" or slow:
                self.open(now)
            elif len(self.results) == 2:
                self.opened = 0
                self.enter("closed")
            return
        window = [r for r in self.results if r[0] > now - 60][-10:]
        bad = sum(r[1] == "failure" for r in window)
        if len(window) >= 4 and (bad * 2 >= len(window) or sum(r[2] for r in window) * 5 >= len(window) * 4):
            self.open(now)


class BreakerAgainstModel(RuleBasedStateMachine):
    """Any interleaving of calls, results and time: the breaker and its model agree at every step."""

    calls: Bundle[tuple[Admitted, int]] = Bundle("calls")
    changes_mode = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.real = StateMachine(SETTINGS, lambda: 0.5)
        self.model = Model()

    @rule(seconds=st.sampled_from([0, 0.5, 1, 5, 10, 30, 60]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.changes_mode)
    @rule(mode=st.sampled_from(MODES), seconds=st.sampled_from([1, 10, 60]))
    def overrule(self, mode: Mode, seconds: float) -> None:
        self.real.set_mode(mode, until=self.now + seconds, now=self.now)
        self.model.set_mode(mode, until=self.now + seconds, now=self.now)

    @rule(target=calls)
    def call(self) -> tuple[Admitted, int] | MultipleResults[tuple[Admitted, int]]:
        decision, expected = self.real.admit(self.now), self.model.admit(self.now)
        if expected is None:
            assert isinstance(decision, Refused)
            assert decision.retry_after > 0
            return multiple()
        assert isinstance(decision, Admitted)
        return decision, expected

    @rule(results=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=6))
    def calls_one_after_the_other(self, results: list[CallOutcome]) -> None:
        for outcome in results:
            if (term := self.model.admit(self.now)) is None:
                assert isinstance(self.real.admit(self.now), Refused)
            else:
                self.settle((admitted(self.real, self.now), term), outcome, 0)

    @rule(
        call=consumes(calls),
        outcome=st.sampled_from(OUTCOMES),
        duration=st.sampled_from([0, 0.5, 1, 3]),
    )
    def settle(self, call: tuple[Admitted, int], outcome: CallOutcome, duration: float) -> None:
        decision, term = call
        self.real.settle(decision, outcome, duration=duration, now=self.now)
        self.model.settle(term, outcome, self.now, slow=duration >= 1)

    @precondition(lambda self: self.real.state == "open")
    @rule()
    def open_time_passes(self) -> None:
        self.now = self.model.open_until

    @invariant()
    def same_state(self) -> None:
        assert (state_of(self.real), self.real.mode) == (self.model.state, self.model.mode)
        if self.real.state == "half_open":
            assert 0 <= self.real._in_flight <= SETTINGS.half_open_calls
        assert self.real._window.calls <= SETTINGS.window_size


BreakerAgainstModel.TestCase.settings = hypothesis_settings(max_examples=100, stateful_step_count=60, deadline=None)
TestBreakerAgainstModel = BreakerAgainstModel.TestCase


class OverruledBreakerAgainstModel(BreakerAgainstModel):
    """The same while operators overrule it at any moment."""

    changes_mode = True


OverruledBreakerAgainstModel.TestCase.settings = hypothesis_settings(
    max_examples=60, stateful_step_count=60, deadline=None
)
TestOverruledBreakerAgainstModel = OverruledBreakerAgainstModel.TestCase
