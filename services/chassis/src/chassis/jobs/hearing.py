"""A worker learns of new jobs from the transactions of its own process, and from notifications of other processes."""

import asyncio
from collections.abc import Callable

from chassis.jobs.enqueueing import wakeup_channel
from chassis.pooling.wakeup import Wakeups


class Hearing:
    """Sets `changed` when jobs are added to a queue.

    If this process adds a job while `has_room()` is true, this worker claims the job, and no notification is sent. If
    the worker then finds more jobs than it has slots for, `pass_on` wakes the other workers.
    """

    def __init__(self, wakeups: Wakeups, queue: str, *, has_room: Callable[[], bool]) -> None:
        self.changed = asyncio.Event()
        """This event is set when jobs were added. The runner also sets the event when a job has finished or a slot is
        free.
        """
        self._wakeups = wakeups
        self._channel = wakeup_channel(queue)
        self._has_room = has_room
        self._has_heard = False
        self._is_alone = False  # whether jobs were added without a notification to the other workers
        wakeups.listen(self._channel, self._hear, reads_now=self._reads_now)

    def take(self) -> bool:
        """Whether jobs were added since the last call. After this call, the caller looks for jobs."""
        has_heard, self._has_heard = self._has_heard, False
        return has_heard

    def pass_on(self, *, may_be_more: bool) -> None:
        """Wake the other workers if this worker has kept new jobs to itself (no notification was sent), but could not
        claim all of them.

        `may_be_more` is True if jobs may be due that this worker did not claim.
        """
        if self._is_alone and not self._has_heard:
            self._is_alone = False
            if may_be_more:
                self._wakeups.notify(self._channel)

    def _hear(self) -> None:
        self._has_heard = True
        self.changed.set()

    def _reads_now(self) -> bool:
        has_room = self._has_room()
        self._is_alone |= has_room
        return has_room
