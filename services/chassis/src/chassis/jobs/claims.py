"""The state from which a worker decides which jobs to claim next.

A suspect is a job whose lease expired: the job may have killed the process that ran it. The state tells which jobs may
be due, and which suspect this worker is running.
"""

import time
from collections.abc import Container, Sequence

from chassis.jobs.decisions import NOTHING, Claim, Due, decide_claim
from chassis.jobs.runs import Run
from chassis.jobs.tending import SuspectsDue


class Claims:
    """Decides each claim of a worker with `concurrency` slots, and remembers which jobs the last claim has started."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._suspect: tuple[Run, Claim] | None = None  # the suspect that was started last, with its claim
        self._is_others_turn = False
        self._held_until = 0.0
        self.may_be_more = True  # whether jobs other than suspects may be due
        self.suspects_due = SuspectsDue(beside_others=False, alone=False)

    def hold(self, seconds: float) -> float:
        """Claim no job for some seconds, and return the end of this time. After this time, the oldest job is claimed
        first.
        """
        self._held_until = max(self._held_until, time.monotonic() + seconds)
        return self._held_until

    def next(self, running: Container[Run], *, unended: int) -> Claim:
        """The next claim. `running` holds the jobs that run, and `unended` is the number of occupied slots."""
        if time.monotonic() < self._held_until:
            return NOTHING
        suspect, claim = self._suspect or (None, None)
        return decide_claim(
            unended=unended,
            concurrency=self._concurrency,
            due=Due(
                others=self.may_be_more,
                suspects=self.suspects_due.beside_others,
                lone_suspects=self.suspects_due.alone,
            ),
            running=claim if suspect in running else None,
            is_others_turn=self._is_others_turn,
        )

    def has_room(self, running: Container[Run], *, unended: int) -> bool:
        """Whether this worker can start a job that becomes due now, unless the job is a suspect (its lease has
        expired).
        """
        if time.monotonic() < self._held_until:
            return False
        suspect, claim = self._suspect or (None, None)
        runs_alone = claim is not None and claim.alone and suspect in running
        return unended < self._concurrency and not runs_alone and not self.suspects_due.alone

    def note(self, claim: Claim, started: Sequence[Run]) -> None:
        """Remember which jobs this claim has started, because the next claim depends on them."""
        self._is_others_turn = claim.suspects and bool(started)
        if not claim.suspects:
            self.may_be_more = len(started) == claim.count
        elif started:
            self._suspect = started[0], claim
        elif claim.alone:
            self.suspects_due = self.suspects_due._replace(alone=False)
        else:
            self.suspects_due = self.suspects_due._replace(beside_others=False)
