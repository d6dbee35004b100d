"""Dead events: what a consumer could not handle, for whoever has to decide about it.

Plain functions over a session, for the command line. The consumer whose event it is does the replaying: within seconds,
in a transaction of its own, and without Redis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from chassis.events.inbox import STATEMENTS
from chassis.pooling.column_types import is_bigint


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEvent:
    """An event as it was read: `event` is JSON text, or what arrived in its place. `replay_at`: since when it waits for
    its replay.
    """

    id: int
    consumer: str
    stream: str
    entry_id: str
    event: str
    reason: str
    died_at: datetime
    replay_at: datetime | None


async def list_dead(session: AsyncSession, *, count: int = 100) -> list[DeadEvent]:
    """The oldest `count` dead events."""
    rows = await session.execute(STATEMENTS["list_dead"], {"count": count})
    return [DeadEvent(**row._mapping) for row in rows]  # noqa: SLF001  public API


async def show(session: AsyncSession, event_number: int) -> DeadEvent | None:
    """One dead event; None when it was replayed or never was."""
    if not is_bigint(event_number):
        return None
    row = (await session.execute(STATEMENTS["show_dead"], {"id": event_number})).one_or_none()
    return DeadEvent(**row._mapping) if row is not None else None  # noqa: SLF001  public API


async def replay(
    session: AsyncSession, *, event_number: int | None = None, stream: str | None = None, dry_run: bool = False
) -> Sequence[int]:
    """Ask for one (`event_number`), those of a stream, or all, and return their numbers.

    A dry run returns the numbers and changes nothing.
    """
    if event_number is not None and not is_bigint(event_number):
        return ()
    values = {"id": event_number, "stream": stream}
    found: Sequence[int] = (await session.scalars(STATEMENTS["find_dead"], values)).all()
    if found and not dry_run:
        await session.execute(STATEMENTS["ask_for_replay"], {"ids": list(found)})
    return found
