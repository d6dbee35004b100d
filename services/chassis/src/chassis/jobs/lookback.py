"""How far back a claim looks for due jobs.

A job that has run leaves a dead entry in the index from which jobs are claimed. Vacuum removes such entries, but not
while a transaction is open that is older than them. A claim that began at the start of the index would then step over
the entries of all jobs that have run since. So a claim looks back only as far as the oldest job that may still be due.

A worker cannot see each change that other transactions make. A job becomes due before the time to which claims look
back if its transaction committed late, if another worker handed the job back, or if the clock was set forward. So the
worker takes a full look at the queue with each sample (`tending.py`), and looks back as far as this look found a job.

Each worker has a lookback of its own, in memory. The times are ages, relative to the database's clock at the time of
the claim. So a clock that is set back or forward changes no lookback.
"""

import math
from collections.abc import Sequence

from chassis.jobs.decisions import Claim
from chassis.jobs.runs import Run

MARGIN_SECONDS = 1.0
"""How much further back a claim looks. A job becomes due at the start of the transaction that enqueues it, and becomes
visible with the commit. So claims find a job at once if its transaction takes no longer than this."""


class Lookback:
    """The age of the oldest job that may be due. All times are on a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._age = math.inf
        self._at = 0.0
        self.full_looks = 0
        """The number of full looks so far."""

    def seconds(self, now: float) -> float | None:
        """How far back a claim must look, or None for all due jobs, as before the first full look."""
        return None if math.isinf(self._age) else self._age + (now - self._at) + MARGIN_SECONDS

    def note_full_look(self, oldest_age: float, *, began: float) -> None:
        """Note the age of the oldest due job in the whole queue, or 0 if no job is due."""
        self._age, self._at = oldest_age, began
        self.full_looks += 1

    def note_claim(self, oldest_age: float, *, began: float, full_looks: int) -> None:
        """Note that a claim has left no older job in the part of the queue that the claim has read.

        `full_looks` is the number of full looks at the time when the claim began. A full look that ended during the
        claim may have found an older job, which the claim has not read. In this case the claim changes nothing.
        """
        if full_looks == self.full_looks and full_looks > 0:
            self._age, self._at = oldest_age, began


def oldest_left(claim: Claim, started: Sequence[Run], *, is_oldest_first: bool) -> float | None:
    """The age of the oldest due job that a claim may have left, among the jobs that it has read, in seconds.

    The result is None if the claim does not tell the age: a claim of suspects, or a full claim by priority.
    """
    if claim.suspects:
        return None
    if len(started) < claim.count:
        return 0.0
    return min(run.row["waited"] for run in started) if is_oldest_first else None
