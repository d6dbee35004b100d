"""Deadlines only shrink, travel as remaining time, and stop work that nobody waits for any more."""

import asyncio
import math

import pytest
from chassis import deadlines
from chassis.errors import DeadlineExceeded


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_there_is_no_limit_outside_a_deadline() -> None:
    assert deadlines.remaining() == math.inf
    deadlines.check("anything")


def test_a_deadline_counts_down_and_ends_with_its_block() -> None:
    clock = FakeClock()
    with deadlines.deadline(5, clock=clock):
        clock.now += 2
        assert deadlines.remaining(clock=clock) == pytest.approx(3)
    assert deadlines.remaining(clock=clock) == math.inf


def test_a_longer_deadline_inside_a_shorter_one_changes_nothing() -> None:
    clock = FakeClock()
    with deadlines.deadline(1, clock=clock), deadlines.deadline(60, clock=clock):
        assert deadlines.remaining(clock=clock) == pytest.approx(1)


def test_a_spent_deadline_stops_the_next_step_and_is_counted() -> None:
    clock = FakeClock()
    before = deadlines.deadline_exceeded._value.get()
    with deadlines.deadline(1, clock=clock):
        deadlines.check("charging", clock=clock)
        clock.now += 1
        with pytest.raises(DeadlineExceeded, match="before charging"):
            deadlines.check("charging", clock=clock)
    assert deadlines.deadline_exceeded._value.get() == before + 1


async def test_tasks_started_inside_inherit_the_deadline_and_cannot_move_it_for_others() -> None:
    async def shrink() -> float:
        with deadlines.deadline(0.5):
            return deadlines.remaining()

    with deadlines.deadline(30):
        assert await asyncio.create_task(shrink()) <= 0.5
        assert deadlines.remaining() > 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("250", 0.25),
        ("0", 0.0),
        ("10000", 10.0),
        ("10001", 10.0),
        ("9" * 5000, 10.0),
        (None, 10.0),
        ("", 10.0),
        ("-5", 10.0),
        ("1.5", 10.0),
        ("1e3", 10.0),
        ("nan", 10.0),
        ("²", 10.0),
        ("٣", 10.0),
        (" 250", 10.0),
    ],
)
def test_a_callers_header_is_clamped_and_nonsense_is_ignored(header: str | None, seconds: float) -> None:
    assert deadlines.from_header(header, 10.0) == seconds


def test_the_next_hop_is_granted_whole_milliseconds_rounded_down_and_never_a_negative_time() -> None:
    assert deadlines.to_header(1.2349) == "1234"
    assert deadlines.to_header(-3) == "0"
