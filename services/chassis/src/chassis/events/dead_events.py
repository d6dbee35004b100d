"""Dead events: events that a consumer could not handle. An operator can read dead events and request their replay.

The command line calls the functions of this module and passes a database session. `replay` only stores a request. The
consumer that could not handle the event finds the request within seconds, and calls the handler again in a new
transaction. Redis has no part in a replay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from chassis.events.inbox import STATEMENTS
from chassis.pooling import Session
from chassis.pooling.column_types import is_bigint


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEvent:
    """A row of the table `dead_event`. `event` is the text of the stream entry: JSON, unless the entry was invalid.

    `replay_at` is the time at which a replay was requested, or None.
    """

    id: int
    consumer: str
    stream: str
    entry_id: str
    event: str
    reason: str
    died_at: datetime
    replay_at: datetime | None


async def list_dead(session: Session, *, count: int = 100) -> list[DeadEvent]:
    """The oldest `count` dead events."""
    rows = await session.execute(STATEMENTS["list_dead"], {"count": count})
    return [DeadEvent(**row._mapping) for row in rows]  # noqa: SLF001  `_mapping` belongs to SQLAlchemy's documented interface


async def show(session: Session, event_number: int) -> DeadEvent | None:
    """The dead event, or None if its replay has succeeded or no such event existed."""
    if not is_bigint(event_number):
        return None
    row = (await session.execute(STATEMENTS["show_dead"], {"id": event_number})).one_or_none()
    return DeadEvent(**row._mapping) if row is not None else None  # noqa: SLF001  `_mapping` belongs to SQLAlchemy's documented interface


async def replay(
    session: Session, *, event_number: int | None = None, stream: str | None = None, dry_run: bool = False
) -> Sequence[int]:
    """Request the replay of one dead event (`event_number`), of all dead events of a `stream`, or of all dead events.

    Returns the numbers of the selected dead events. A dry run returns the numbers and requests no replay.
    """
    if event_number is not None and not is_bigint(event_number):
        return ()
    values = {"id": event_number, "stream": stream}
    found: Sequence[int] = (await session.scalars(STATEMENTS["find_dead"], values)).all()
    if found and not dry_run:
        await session.execute(STATEMENTS["ask_for_replay"], {"ids": list(found)})
    return found
