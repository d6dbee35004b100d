"""The lab's load: open-loop, measured from when a call was due, the same for the same seed."""

import asyncio
import math
import random

import pytest
from experiments.lab.load import Generator, merged, per_second, percentile, poisson


async def test_a_call_is_made_when_it_is_due_though_none_before_it_has_been_answered() -> None:
    generator = Generator()
    begun = asyncio.Barrier(3)

    async def call(_: str) -> str:
        await begun.wait()  # nobody is answered until all three have been asked
        return "answered"

    async with asyncio.timeout(10):
        calls = await generator.play([(0.0, "a"), (0.0, "b"), (0.01, "c")], call, ends=None)
    assert [(one.what, one.outcome) for one in calls] == [("a", "answered"), ("b", "answered"), ("c", "answered")]


async def test_what_a_late_generator_costs_is_in_the_calls_time() -> None:
    generator = Generator()
    generator.start -= 100  # as if it had stood still for so long

    async def call(_: str) -> str:
        return "answered"

    [one] = await generator.play([(1.0, "a")], call, ends=None)
    assert one.seconds > 98
    assert generator.latest > 98


async def test_what_has_no_answer_in_the_end_is_cancelled_and_said_to_be_unanswered() -> None:
    generator = Generator()
    cancelled = asyncio.Event()

    async def call(what: str) -> str:
        if what == "fast":
            return "answered"
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    calls = await generator.play([(0.0, "fast"), (0.01, "slow")], call, ends=0.05)
    assert [one.outcome for one in calls] == ["answered", "unanswered"]
    assert calls[1].seconds == pytest.approx(0.04)
    assert cancelled.is_set()


@pytest.mark.parametrize("ends", [None, 60.0])
async def test_a_mistake_in_an_arm_ends_the_run_at_once(ends: float | None) -> None:
    async def call(_: str) -> str:
        raise ZeroDivisionError

    async with asyncio.timeout(10):
        with pytest.raises(ExceptionGroup) as raised:
            await Generator().play([(0.0, "a")], call, ends=ends)
    assert raised.group_contains(ZeroDivisionError)


def test_the_same_seed_is_the_same_load() -> None:
    first, again, other = (poisson(50, 100, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(first) == pytest.approx(5000, rel=0.1)
    assert first == sorted(first)
    assert 0 < first[0] < first[-1] < 100


def test_streams_are_merged_in_the_order_of_their_moments() -> None:
    assert merged(a=[1.0, 3.0], b=[2.0]) == [(1.0, "a"), (2.0, "b"), (3.0, "a")]


def test_moments_are_counted_by_steps_and_those_outside_of_the_run_are_not() -> None:
    assert per_second([-0.1, 0.0, 0.4, 0.5, 1.9, 2.0], seconds=2, step=0.5) == [4.0, 2.0, 0.0, 2.0]


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert math.isnan(percentile([], 0.5))
