"""How far back a claim looks for due jobs.

A job that has run leaves a dead entry in the index from which jobs are claimed. Vacuum removes such entries, but not
while an older transaction is open. A claim that reads the index from its start would then step over the entries of all
jobs that have run since. So a claim looks back only as far as the oldest job that may still be due.

A due job may be older than claims look back: if its transaction committed late, if another worker handed the job back,
or if the database's clock was set forward. So each sample of the queue (a regular measurement, see `tending.py`) also
finds the oldest due job in the whole index, and the next claims look back as far as this job.

Each worker has its own lookback, in memory. A lookback is an age and not a point in time. If the database's clock is
set back, all jobs become younger, so claims still find every due job. If the clock is set forward, claims may miss
older jobs until the next sample.
"""

import math
from collections.abc import Sequence

from chassis.jobs.decisions import Claim
from chassis.jobs.runs import Run

MARGIN_SECONDS = 1.0
"""A claim looks back this many seconds further than to the oldest job that may be due. A job becomes due when the
transaction that enqueues it begins, but is visible only after the commit. So claims find the job at once if its
transaction takes no longer than this."""


class Lookback:
    """The age of the oldest job that may be due. All times are on a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._age = math.inf
        self._at = 0.0
        self.full_looks = 0
        """The number of samples (measurements of the whole queue) so far, plus the number of jobs that went back to the
        queue. Each of these may have made the lookback longer.
        """

    def seconds(self, now: float) -> float | None:
        """The largest age in seconds of a job that the next claim takes. None means that the claim takes jobs of any
        age, because no sample (a measurement of the whole queue) has ended yet.
        """
        return None if math.isinf(self._age) else self._age + (now - self._at) + MARGIN_SECONDS

    def note_full_look(self, oldest_age: float, *, began: float) -> None:
        """Note the result of a sample of the whole queue: the age of its oldest due job, or 0 if no job is due."""
        self._age, self._at = oldest_age, began
        self.full_looks += 1

    def note_claim(self, oldest_age: float, *, began: float, full_looks: int) -> None:
        """Note that a claim has left no due job older than `oldest_age`, among the jobs that the claim looked at.

        `full_looks` is the value of the attribute `full_looks` at the time when the claim began. If the attribute has
        changed, a sample of the whole queue has ended during the claim, and may have found an older job, at which the
        claim did not look. In this case the method changes nothing.
        """
        if full_looks == self.full_looks and full_looks > 0:
            self._age, self._at = oldest_age, began

    def note_postponed(self, run: Run, *, now: float) -> None:
        """Note that the job went back to the queue and is due again at its former time, `run_at`."""
        if not math.isinf(self._age):
            age = run.row["waited"] + (now - run.claimed_at)
            self._age, self._at = max(self._age + (now - self._at), age), now
            # A claim that runs at this moment has not read this job, so this claim must not shorten the lookback.
            self.full_looks += 1


def oldest_left(claim: Claim, started: Sequence[Run], *, is_oldest_first: bool) -> float | None:
    """The age in seconds of the oldest due job that a claim may have left, among the jobs that the claim looked at.

    The result is None if the claim does not tell this age. This is so for a claim of suspects (jobs whose lease
    expired), and for a claim by priority that got as many jobs as it requested.
    """
    if claim.suspects:
        return None
    if len(started) < claim.count:
        return 0.0
    return min(run.row["waited"] for run in started) if is_oldest_first else None
