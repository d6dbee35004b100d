"""What is allowed: how long things may take, and what has interrupted them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

SENDING = timedelta(seconds=10)
"""From a copy's arrival until its sender has committed that, at most: what interrupts the sender in that time makes it
send once more. It takes some milliseconds on an idle machine, and seconds on a busy one. What is sent just after an
interruption may still meet its consequences, such as a connection that is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """When the sending of mails and webhooks was cut short, and by what: a crash is a moment, a pause is not."""

    since: datetime
    until: datetime
    cause: str

    def excuses(self, earlier: datetime, later: datetime) -> bool:
        """Whether it may be why a copy was sent again that had arrived already."""
        return self.since - SENDING <= earlier <= self.until + SENDING and self.since <= later


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is allowed. Seconds: `stuck_after` for what moves by itself (twice a job's lease of 15 s, then a crash was
    recovered from), `held_after` for an event that waits for an earlier one (the protocol's alarm), `open_after` for
    orders, payments and mails, which may wait for a dependency (the longest back-off of a job, 60 s, and a
    stuck_after).
    """

    interruptions: tuple[Interruption, ...] = ()
    allow_dead: bool = False
    stuck_after: float = 30.0
    held_after: float = 60.0
    open_after: float = 90.0


def unexcused(arrivals: Iterable[datetime], interruptions: Iterable[Interruption]) -> int:
    """How many copies of one mail, in the order of arrival, came again without an interruption that can be the cause.

    One interruption excuses one copy of a mail, and only of one that was being sent at that moment.
    """
    left, number = sorted(interruptions, key=lambda interruption: interruption.until), 0
    for earlier, later in pairwise(arrivals):
        excuse = next((interruption for interruption in left if interruption.excuses(earlier, later)), None)
        if excuse is None:
            number += 1
        else:
            left.remove(excuse)
    return number
