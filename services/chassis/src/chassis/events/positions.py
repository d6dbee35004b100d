"""The position of the relay in a stream: up to which event of the outbox it has published the stream. If Redis lost the
stream, the position also says up to which event the relay has published the stream again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far the relay has published a stream. `last_id` is the id of the last entry that Redis must have.

    While the relay publishes the stream again, `repeat_after` is the `seq` of the last outbox row that the relay
    has published again.

    `is_stored` is False while the position in the database is older: the relay has published the rows `unmarked`, and
    its next statement stores the position and marks these rows as published.
    """

    stream: str
    epoch: str
    last_id: str
    repeat_after: int | None
    unmarked: Sequence[int] = ()
    is_stored: bool = True


def repeat_after_batch(position: Position, done: Sequence[asyncpg.Record], *, is_over: bool) -> int | None:
    """How far the relay has repeated a stream that Redis lost: the `seq` of the outbox row that it repeated last.

    The result is None if the relay does not repeat the stream, or has repeated all of its rows.
    """
    if position.repeat_after is None or is_over:
        return None
    return int(done[-1]["seq"]) if done else position.repeat_after
