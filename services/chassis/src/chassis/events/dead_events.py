"""Dead events: events that a consumer could not handle. An operator looks at them and may have them replayed.

The command line calls these functions, each with its session. `replay` only records a request: the event's consumer
replays it within seconds, in its own transaction and without Redis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from chassis.events.inbox import STATEMENTS
from chassis.pooling import Session
from chassis.pooling.column_types import is_bigint


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEvent:
    """An event as it was read: `event` is JSON text, unless the entry held other text.

    `replay_at` is when its replay was requested, and None if it was not.
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
    return [DeadEvent(**row._mapping) for row in rows]  # noqa: SLF001  public API


async def show(session: Session, event_number: int) -> DeadEvent | None:
    """One dead event; None when it was replayed or never existed."""
    if not is_bigint(event_number):
        return None
    row = (await session.execute(STATEMENTS["show_dead"], {"id": event_number})).one_or_none()
    return DeadEvent(**row._mapping) if row is not None else None  # noqa: SLF001  public API


async def replay(
    session: Session, *, event_number: int | None = None, stream: str | None = None, dry_run: bool = False
) -> Sequence[int]:
    """Request the replay of one dead event (`event_number`), of a stream's, or of all, and return their numbers.

    A dry run returns the numbers and changes nothing.
    """
    if event_number is not None and not is_bigint(event_number):
        return ()
    values = {"id": event_number, "stream": stream}
    found: Sequence[int] = (await session.scalars(STATEMENTS["find_dead"], values)).all()
    if found and not dry_run:
        await session.execute(STATEMENTS["ask_for_replay"], {"ids": list(found)})
    return found
