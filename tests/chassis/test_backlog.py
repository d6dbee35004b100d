"""Admission by backlog, the decision: when the door closes and opens, which rate counts, and what Retry-After says."""

import itertools
import random
from collections import deque

import pytest
from chassis.app.api.backlog import (
    IDLE_SECONDS,
    LONGEST_WINDOW,
    MAX_RETRY_SECONDS,
    SHORTEST_WINDOW,
    Backlog,
    Measurement,
)
from chassis.config.settings import BacklogSettings

SETTINGS = BacklogSettings(promise=30, minimum_rate=5)
STEP = 0.25


def test_a_backlog_is_full_from_half_of_the_promise_on_until_it_is_below_two_fifths() -> None:
    backlog = Backlog(rate=10)
    seen = []
    for second, waiting in enumerate([149, 150, 149, 120, 119, 120, 149, 150]):
        backlog = backlog.then(Measurement(at=second, waiting=waiting, done=300, window=30), SETTINGS)
        seen.append(backlog.is_full)
    assert seen == [False, True, True, True, False, False, False, True]


def test_what_a_process_accepts_between_two_measurements_counts() -> None:
    backlog = Backlog(rate=10, waiting=140)
    assert [backlog.refuses(more, SETTINGS) for more in (9, 10)] == [False, True]


@pytest.mark.parametrize(("waiting", "seconds"), [(150, 5), (200, 8), (300, 18), (5000, MAX_RETRY_SECONDS)])
def test_after_the_retry_after_the_backlog_is_short_enough(waiting: int, seconds: float) -> None:
    backlog = Backlog(rate=10, waiting=waiting, is_full=True)
    assert backlog.retry_after(0, SETTINGS) == seconds
    later = Measurement(at=seconds, waiting=waiting - int(10 * seconds) - 1, done=300, window=30)
    assert backlog.then(later, SETTINGS).is_full == (seconds == MAX_RETRY_SECONDS)


def test_without_history_the_minimum_rate_counts() -> None:
    first = Backlog(rate=SETTINGS.minimum_rate).then(Measurement(at=0, waiting=74, done=0, window=30), SETTINGS)
    assert not first.is_full
    assert first.then(Measurement(at=1, waiting=75, done=0, window=30), SETTINGS).is_full


def test_a_window_covers_the_time_for_which_work_has_waited() -> None:
    assert Backlog(rate=5).window(100) == LONGEST_WINDOW
    assert Backlog(rate=5, busy_since=98).window(100) == SHORTEST_WINDOW
    assert Backlog(rate=5, busy_since=88).window(100) == 12
    assert Backlog(rate=5, busy_since=10).window(100) == LONGEST_WINDOW


def test_an_idle_night_does_not_lower_the_rate() -> None:
    backlog = Backlog(rate=20)
    for second in range(8 * 3600):
        backlog = backlog.then(Measurement(at=second, waiting=second % 2, done=3, window=LONGEST_WINDOW), SETTINGS)
    assert backlog.rate == 20
    assert not backlog.then(Measurement(at=1e6, waiting=299, done=3, window=LONGEST_WINDOW), SETTINGS).is_full


def test_poison_orders_that_never_end_do_not_close_the_door() -> None:
    backlog = Backlog(rate=SETTINGS.minimum_rate)
    for second in range(900):
        found = Measurement(at=second, waiting=20, done=3, window=backlog.window(second), oldest_age=second)
        backlog = backlog.then(found, SETTINGS)
        assert not backlog.is_full


# A pipeline in simulated time: arrivals, one queue in order, and a capacity that may change


class Pipeline:
    """Orders in and out, in steps of `STEP` seconds, measured like the real one."""

    def __init__(self, backlog: Backlog) -> None:
        self.backlog = backlog
        self.now = self._measured = 0.0
        self.queue: deque[float] = deque()
        self.done: list[tuple[float, float]] = []
        self.refused = 0
        self._accepted = 0
        self._work = 0.0

    def run(self, seconds: float, *, arrive: float, capacity: float, draw: random.Random) -> None:
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            for _ in range(int(arrive * STEP + draw.random())):
                if self.backlog.refuses(self._accepted, SETTINGS):
                    self.refused += 1
                else:
                    self._accepted += 1
                    self.queue.append(self.now)
            self._work = min(self._work + capacity * STEP, len(self.queue))
            while self._work >= 1:
                self._work -= 1
                self.done.append((self.now, self.now - self.queue.popleft()))
            if self.backlog.busy_since is not None or self.now - self._measured >= IDLE_SECONDS:
                self._measure()

    def _measure(self) -> None:
        window = self.backlog.window(self.now)
        done = sum(1 for _ in itertools.takewhile(lambda one: one[0] > self.now - window, reversed(self.done)))
        found = Measurement(at=self.now, waiting=len(self.queue), done=done, window=window)
        self.backlog = self.backlog.then(found, SETTINGS)
        self._measured, self._accepted = self.now, 0


@pytest.mark.parametrize("times", [2, 5, 10])
@pytest.mark.parametrize("capacity", [7, 20, 60])
@pytest.mark.parametrize("known", [5, 100], ids=["nothing is known", "a rate of better times is known"])
def test_beyond_capacity_the_door_keeps_the_promise_and_the_pipeline_busy(
    times: int, capacity: int, known: float
) -> None:
    pipeline, draw = Pipeline(Backlog(rate=known)), random.Random(1)
    pipeline.run(60, arrive=0.5 * capacity, capacity=capacity, draw=draw)
    before = len(pipeline.done)
    pipeline.run(300, arrive=times * capacity, capacity=capacity, draw=draw)
    assert len(pipeline.done) - before >= 0.95 * 300 * capacity
    settled = [waited for at, waited in pipeline.done if at > 160]
    assert max(settled) <= SETTINGS.promise
    pipeline.run(30, arrive=0.5 * capacity, capacity=capacity, draw=draw)
    before = pipeline.refused
    pipeline.run(60, arrive=0.5 * capacity, capacity=capacity, draw=draw)
    assert pipeline.refused == before
    assert pipeline.done[-1][1] < 1


def test_when_the_capacity_falls_the_door_closes_in_time() -> None:
    pipeline, draw = Pipeline(Backlog(rate=5)), random.Random(1)
    pipeline.run(60, arrive=40, capacity=20, draw=draw)
    pipeline.run(300, arrive=40, capacity=6, draw=draw)
    assert max(waited for at, waited in pipeline.done if at > 200) <= SETTINGS.promise


def test_in_an_outage_orders_are_accepted_up_to_the_work_of_half_a_promise_and_the_known_rate_stays() -> None:
    pipeline, draw = Pipeline(Backlog(rate=5)), random.Random(1)
    pipeline.run(60, arrive=40, capacity=20, draw=draw)
    pipeline.run(60, arrive=2, capacity=20, draw=draw)
    rate = pipeline.backlog.rate
    assert rate > 15
    before = pipeline.refused
    pipeline.run(100, arrive=2, capacity=0, draw=draw)
    assert pipeline.refused == before, "an outage of 100 s at a tenth of the capacity"
    assert pipeline.backlog.rate == rate
    pipeline.run(200, arrive=2, capacity=0, draw=draw)
    assert pipeline.refused > before
    assert pipeline.backlog.is_stalled
    assert pipeline.backlog.retry_after(0, SETTINGS) == MAX_RETRY_SECONDS
    pipeline.run(30, arrive=2, capacity=20, draw=draw)
    before = pipeline.refused
    pipeline.run(30, arrive=2, capacity=20, draw=draw)
    assert pipeline.refused == before
    assert pipeline.done[-1][1] < 1
