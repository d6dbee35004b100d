"""Retries: only what can succeed and may be repeated, randomly spread, within budget and deadline."""

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest
from chassis.config.settings import RetrySettings
from chassis.errors import (
    BreakerOpen,
    BulkheadFull,
    DeadlineExceeded,
    DependencyError,
    DependencyFailed,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
)
from chassis.retries import RetryBudget, deadlines, full_jitter, parse_retry_after, retry
from chassis.retries.attempts import amplification, retry_attempts
from chassis.retries.decisions import Stop, Wait, decide, is_retryable
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

REFUSED = DependencyUnavailable("d", "no connection")
LIMITED = DependencyUnavailable("d", "answered 429", status=429, retry_after=1.5)
TIMEOUT = DependencyTimeout("d", 2.0)
RESET = DependencyFailed("d", "connection lost")


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Dependency:
    """Fails with the given errors, one per attempt, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.attempts: list[int] = []

    async def __call__(self, attempt: int) -> str:
        self.attempts.append(attempt)
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def run(
    call: Dependency,
    fake: FakeTime | None = None,
    *,
    idempotent: bool = True,
    policy: RetrySettings | None = None,
    budget: RetryBudget | None = None,
    name: str = "d",
    random: Callable[[], float] = lambda: 0.5,
) -> str:
    fake = fake or FakeTime()
    policy = policy or RetrySettings()
    return await retry(
        call,
        policy=policy,
        budget=budget or RetryBudget(name, policy),
        idempotent=idempotent,
        dependency=name,
        sleep=fake.sleep,
        random=random,
        clock=fake.clock,
    )


@pytest.mark.parametrize(
    ("error", "if_idempotent", "otherwise"),
    [
        (REFUSED, True, True),
        (LIMITED, True, True),
        (TIMEOUT, True, False),
        (RESET, True, False),
        *[(DependencyFailed("d", "", status=status), True, False) for status in (502, 503, 504)],
        *[(DependencyFailed("d", "", status=status), False, False) for status in (200, 302, 500, 501)],
        (DependencyRejected("d", 408, b""), True, False),
        *[(DependencyRejected("d", status, b""), False, False) for status in (400, 402, 404, 409, 422)],
        (BreakerOpen("d", retry_after=1), False, False),
        (BulkheadFull("d", 1), False, False),
    ],
    ids=str,
)
def test_what_may_be_repeated_depends_on_the_outcome_and_on_idempotency(
    error: DependencyError, *, if_idempotent: bool, otherwise: bool
) -> None:
    assert is_retryable(error, idempotent=True) is if_idempotent
    assert is_retryable(error, idempotent=False) is otherwise


@given(n=st.integers(0, 60), u=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_anywhere_between_nothing_and_the_capped_exponential(n: int, u: float) -> None:
    assert full_jitter(n, base=0.1, cap=2.0, random=lambda: u) == u * min(2.0, 0.1 * 2**n)


def test_a_wait_after_any_number_of_failures_is_at_most_the_cap() -> None:
    assert full_jitter(10_000, base=0.1, cap=2.0, random=lambda: 1.0) == 2.0


def test_ten_percent_of_jitter_keeps_callers_that_failed_together_in_step_and_full_jitter_spreads_them() -> None:
    def busiest_tenth(waits: list[float], longest: float) -> int:
        return max(sum(i <= wait / longest * 10 < i + 1 for wait in waits) for i in range(10))

    source = random.Random(1)
    additive = [0.8 * (1 + 0.1 * source.random()) for _ in range(1000)]
    full = [full_jitter(3, base=0.1, cap=2.0, random=source.random) for _ in range(1000)]
    assert busiest_tenth(additive, 0.88) > 900
    assert busiest_tenth(full, 0.8) < 150


async def test_a_call_that_recovers_succeeds_after_waiting() -> None:
    fake, call = FakeTime(), Dependency(RESET, TIMEOUT)
    assert await run(call, fake) == "done"
    assert call.attempts == [1, 2, 3]
    assert fake.slept == [0.05, 0.1]


async def test_attempts_end_at_the_policys_number() -> None:
    call = Dependency(*[RESET] * 10)
    with pytest.raises(DependencyFailed):
        await run(call)
    assert call.attempts == [1, 2, 3]


async def test_a_call_that_is_not_idempotent_is_never_repeated_once_it_may_have_run() -> None:
    call = Dependency(REFUSED, TIMEOUT, RESET)
    with pytest.raises(DependencyTimeout):
        await run(call, idempotent=False)
    assert call.attempts == [1, 2]


@pytest.mark.parametrize(
    "error", [BreakerOpen("d", retry_after=0.1), BulkheadFull("d", 1)], ids=["breaker", "bulkhead"]
)
async def test_what_this_process_refused_is_not_tried_again(error: DependencyError) -> None:
    call = Dependency(error)
    with pytest.raises(type(error)):
        await run(call)
    assert call.attempts == [1]


async def test_retry_after_is_honoured() -> None:
    fake, call = FakeTime(), Dependency(LIMITED)
    assert await run(call, fake) == "done"
    assert fake.slept == [1.5]


async def test_a_wait_that_outlasts_the_deadline_is_not_begun() -> None:
    fake, call = FakeTime(), Dependency(LIMITED)
    with deadlines.deadline(1.0, clock=fake.clock), pytest.raises(DependencyUnavailable):
        await run(call, fake)
    assert (call.attempts, fake.slept) == ([1], [])


async def test_attempts_and_waits_together_stay_inside_the_total_time_out() -> None:
    fake = FakeTime()
    policy = RetrySettings(max_attempts=10, base_delay=1, max_delay=2, total_timeout=5)
    with pytest.raises(DependencyFailed):
        await run(Dependency(*[RESET] * 10), fake, policy=policy, random=lambda: 1.0)
    assert fake.now <= 5


async def test_a_call_that_may_have_run_is_never_reported_as_not_run() -> None:
    with pytest.raises(DependencyTimeout) as raised:
        await run(Dependency(TIMEOUT, REFUSED, REFUSED))
    assert raised.value.outcome == "unknown"
    with pytest.raises(DependencyTimeout):
        await run(Dependency(TIMEOUT, DeadlineExceeded("calling d")))


async def test_an_answer_settles_what_an_earlier_attempt_left_open() -> None:
    with pytest.raises(DependencyRejected):
        await run(Dependency(TIMEOUT, DependencyRejected("d", 422, b"")))


async def test_errors_from_elsewhere_and_cancellation_pass_through_at_once() -> None:
    call = Dependency(RuntimeError("a defect"))
    with pytest.raises(RuntimeError):
        await run(call)
    assert call.attempts == [1]

    async def cancelled(_attempt: int) -> None:
        raise asyncio.CancelledError

    policy = RetrySettings()
    with pytest.raises(asyncio.CancelledError):
        await retry(cancelled, policy=policy, budget=RetryBudget("d", policy), idempotent=True, dependency="d")


async def test_in_an_outage_the_budget_holds_all_callers_together_to_a_tenth_more_load() -> None:
    """Without the budget, 1,000 calls of three attempts would be 3,000."""
    fake, policy = FakeTime(), RetrySettings(budget_ratio=0.1, budget_floor=10)
    budget = RetryBudget("outage", policy)
    attempts = 0
    for _ in range(1000):
        call = Dependency(*[RESET] * 3)
        with pytest.raises(DependencyFailed):
            await run(call, fake, policy=policy, budget=budget, random=lambda: 0.0)
        attempts += len(call.attempts)
    assert 1000 + 100 <= attempts <= 1000 + 100 + 10


def test_a_calm_saves_up_no_storm_and_a_spent_budget_comes_back_with_time() -> None:
    budget = RetryBudget("calm", RetrySettings(budget_ratio=0.1, budget_floor=2, budget_refill_seconds=60))
    for _ in range(1000):
        budget.earn(0.0)
    assert [budget.spend(0.0) for _ in range(3)] == [True, True, False]
    assert budget.spend(29.0) is False
    assert budget.spend(31.0) is True
    assert REGISTRY.get_sample_value("retry_budget_balance", {"dependency": "calm"}) == pytest.approx(budget.balance)


def test_a_budget_without_a_floor_still_grants_the_ratio() -> None:
    budget = RetryBudget("none", RetrySettings(budget_ratio=0.5, budget_floor=0))
    budget.earn(0.0)
    assert budget.spend(0.0) is False
    budget.earn(0.0)
    assert budget.spend(0.0) is True


async def test_each_attempt_is_counted_by_its_outcome() -> None:
    def count(outcome: str) -> float:
        value: float = retry_attempts.labels("counted", outcome)._value.get()
        return value

    await run(Dependency(TIMEOUT, REFUSED), name="counted")
    with pytest.raises(BreakerOpen):
        await run(Dependency(BreakerOpen("counted", retry_after=1)), name="counted")
    assert [count(outcome) for outcome in ("unknown", "not_run", "success", "refused_here")] == [1, 1, 1, 1]


async def test_the_amplification_is_attempts_made_on_the_dependency_over_calls() -> None:
    async def run_all(*errors: DependencyError) -> None:
        with contextlib.suppress(DependencyError, DeadlineExceeded):
            await run(Dependency(*errors), name="amplified")

    child = amplification.labels("amplified")
    await run_all()
    await run_all(TIMEOUT, REFUSED)
    await run_all(RESET, RESET, RESET)
    await run_all(BreakerOpen("amplified", retry_after=1))
    await run_all(TIMEOUT, BulkheadFull("amplified", 1))
    assert child._sum.get() == 1 + 3 + 3 + 0 + 1
    assert sum(bucket.get() for bucket in child._buckets) == 5


async def test_a_cancelled_call_is_counted_as_well() -> None:
    async def hang(_attempt: int) -> None:
        await asyncio.Event().wait()

    policy = RetrySettings()
    task = asyncio.create_task(
        retry(hang, policy=policy, budget=RetryBudget("gone", policy), idempotent=True, dependency="gone")
    )
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert sum(bucket.get() for bucket in amplification.labels("gone")._buckets) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("9" * 400, 86_400.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_nonsense_is_ignored(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=60.0) == seconds


def test_the_decision_names_what_stopped_it() -> None:
    def decision(error: DependencyError, *, attempt: int = 1, remaining: float = 60) -> Wait | Stop:
        return decide(
            error, attempt=attempt, policy=RetrySettings(), idempotent=True, remaining=remaining, random=lambda: 1.0
        )

    assert decision(RESET) == Wait(0.1)
    assert decision(RESET, attempt=3) == Stop("attempts")
    assert decision(RESET, remaining=0.1) == Stop("deadline")
    assert decision(DependencyRejected("d", 404, b"")) == Stop("not_retryable")
