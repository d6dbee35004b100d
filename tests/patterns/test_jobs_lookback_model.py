"""Several workers' lookbacks over a model of the queue: no claim overlooks a job that it must find."""

import math
import random
from dataclasses import dataclass, field

import pytest
from chassis.jobs.lookback import MARGIN_SECONDS, Lookback


@dataclass(eq=False)
class Job:
    run_at: float
    visible_at: float  # the commit of the transaction that enqueued the job
    priority: int
    taken_at: float = math.inf


@dataclass
class Worker:
    """A worker whose full looks take some time, during which it claims."""

    lookback: Lookback = field(default_factory=Lookback)
    look: tuple[float, float] | None = None  # the full look under way: when it began, and what it has found
    seen: set[Job] = field(default_factory=set)  # what full looks have found


def due(jobs: list[Job], now: float) -> list[Job]:
    return [job for job in jobs if job.visible_at <= now and job.run_at <= now < job.taken_at]


@pytest.mark.parametrize("seed", range(40))
def test_a_claim_reaches_each_job_that_committed_in_time_or_was_there_at_the_last_full_look(seed: int) -> None:
    random_ = random.Random(seed)
    jobs: list[Job] = []
    workers = [Worker() for _ in range(3)]
    now = 1000.0
    for _ in range(600):
        now += random_.expovariate(10)
        for _ in range(random_.randrange(3)):
            lateness = random_.choice([0.0, 0.01, MARGIN_SECONDS, 30.0])
            jobs.append(Job(now - lateness, now, random_.randrange(3)))
        worker = random_.choice(workers)
        waiting = due(jobs, now)
        if worker.look is not None and random_.random() < 0.5:
            began, found = worker.look
            worker.lookback.note_full_look(found, began=began)
            worker.look = None
        elif worker.look is None and random_.random() < 0.2:
            worker.look = now, max((now - job.run_at for job in waiting), default=0.0)
            worker.seen = set(waiting)
            continue
        seconds = worker.lookback.seconds(now)
        must_find = [job for job in waiting if job.visible_at - job.run_at <= MARGIN_SECONDS]
        if worker.look is None:
            must_find += [job for job in waiting if job in worker.seen]
        reached = waiting if seconds is None else [job for job in waiting if now - job.run_at <= seconds + 1e-9]
        assert set(must_find) <= set(reached)
        full_looks, count, is_oldest_first = (
            worker.lookback.full_looks,
            random_.randrange(1, 6),
            random_.random() < 0.25,
        )
        order = (lambda job: job.run_at) if is_oldest_first else (lambda job: (-job.priority, job.run_at))
        claimed = sorted(reached, key=order)[:count]
        for job in claimed:
            job.taken_at = now
        if worker.look is not None and random_.random() < 0.5:  # the full look ends while the claim is under way
            worker.lookback.note_full_look(worker.look[1], began=worker.look[0])
            worker.look = None
        if len(claimed) < count:
            worker.lookback.note_claim(0.0, began=now, full_looks=full_looks)
        elif is_oldest_first:
            worker.lookback.note_claim(now - claimed[-1].run_at, began=now, full_looks=full_looks)
    assert len(due(jobs, now)) < len(jobs)


def test_before_its_first_full_look_a_worker_claims_whatever_is_due() -> None:
    lookback = Lookback()
    assert lookback.seconds(now=5.0) is None
    lookback.note_claim(0.0, began=5.0, full_looks=0)
    assert lookback.seconds(now=6.0) is None


def test_a_claim_that_was_under_way_during_a_full_look_does_not_undo_it() -> None:
    lookback = Lookback()
    lookback.note_full_look(0.0, began=0.0)
    full_looks = lookback.full_looks  # a claim begins
    lookback.note_full_look(500.0, began=10.0)  # a job has come late
    lookback.note_claim(0.0, began=9.9, full_looks=full_looks)
    assert lookback.seconds(now=10.0) == 500.0 + MARGIN_SECONDS
