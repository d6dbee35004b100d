"""A job as its handler sees it, and the handler's type."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from chassis.errors import LeaseLost
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.pooling import Session, after_commit


@dataclass(eq=False, slots=True, kw_only=True)
class RunningJob:
    """One attempt at a job. `attempt` counts from 1.

    `(id, attempt)` is the fencing token. A statement that ends the job has an effect only with the job's latest token.
    """

    id: int
    name: str
    attempt: int
    max_attempts: int
    is_finishing: bool = field(default=False, init=False)
    is_complete: bool = field(default=False, init=False)

    async def complete_in(self, session: Session) -> None:
        """Complete the job in this transaction: the handler's effects and the job's end commit together, exactly once.

        The handler calls this method last, just before the commit. Raises `LeaseLost` when another worker may own the
        job by now. The handler must not catch `LeaseLost`, so that the transaction rolls back.
        """
        self.is_finishing = True
        if not await session.fetch(DRIVER_STATEMENTS["complete"], id=self.id, attempt=self.attempt):
            raise LeaseLost(f"job {self.id} is no longer run by attempt {self.attempt}")
        after_commit(session, self._mark_complete)

    def _mark_complete(self) -> None:
        self.is_complete = True


# A service passes a mapping from payload classes to handlers. Python's type system cannot express that a handler takes
# an instance of the class to which it is mapped, so the payload's type is Any.
type Handler = Callable[[RunningJob, Any], Awaitable[None]]
