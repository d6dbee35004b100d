"""Floors: the `seq` from which the relay reads the unpublished events of each stream.

An event that is published leaves a dead entry in the index of the unpublished events. Vacuum removes such entries, but
not while an older transaction is open. If the relay read the index from its start, it would step over the dead entries
of all events that were published during that transaction. So the relay reads each stream from a floor: no unpublished
event of the stream has a lower `seq`.

An event gets its `seq` before its transaction commits. So an event may become visible after events with a higher `seq`
were published. If the floor were above this event's `seq`, the relay would miss the event, and would publish the next
event of its aggregate first. To prevent this, the relay takes a look every few seconds: it reads the last visible
`seq`, and which transactions hold a write lock on the outbox. A transaction that writes to the outbox holds this lock
from before it gets a `seq` until the transaction ends. When all transactions that held the lock at one look have ended,
every event up to the last `seq` of that look is visible. The floors may then rise to this `seq`.
"""

from collections.abc import Collection, Iterable, Sequence

import asyncpg

from chassis.events.outbox import STATEMENTS


class Floors:
    """The floor of each stream of one outbox: the `seq` from which the relay reads the stream. The leading relay (the
    one that publishes) has the floors in memory.
    """

    def __init__(self) -> None:
        self._floors: dict[str, int] = {}
        self._settled = 0
        self.new_streams_from = 1
        """Events of streams that the relay does not know yet have this `seq` or a higher one."""
        self._last_look: tuple[int, frozenset[str]] = 0, frozenset()

    @property
    def lowest(self) -> int:
        """The lowest floor: no unpublished event of any stream has a lower `seq`."""
        return min(self._floors.values(), default=0)

    def of(self, stream: str) -> int:
        """The floor of a stream: 0 until the relay has read the stream."""
        return self._floors.get(stream, 0)

    def note_streams(self, streams: Iterable[str]) -> None:
        """Note which streams the relay has found among the events whose `seq` is `new_streams_from` or higher.

        A new stream has the floor 0 until the relay reads it. Each event up to the `seq` in `_settled` was visible when
        the relay looked for streams. So the events of a stream that the relay did not find have a higher `seq`.
        """
        self.new_streams_from = self._settled + 1
        for stream in streams:
            self._floors.setdefault(stream, 0)

    def note_batch(self, stream: str, seqs: Sequence[int], *, published: int) -> None:
        """Raise the floor of a stream (the `seq` from which the relay reads it) after the relay has read a batch with
        these `seqs` and has published the first `published` events of the batch.
        """
        following = self._settled + 1
        if seqs:
            following = min(following, [*seqs, seqs[-1] + 1][published])
        self._floors[stream] = following

    def note_look(self, last_seq: int, writers: Collection[str]) -> None:
        """Note the result of a look: the outbox's last visible `seq`, and the open transactions that write to the
        outbox.
        """
        seq, before = self._last_look
        if before.isdisjoint(writers):
            self._settled, self._last_look = seq, (last_seq, frozenset(writers))
        else:
            self._last_look = seq, before.intersection(writers)

    def forget(self) -> None:
        """Forget the floors, so that the relay reads each stream from its start once. This finds a row below the floor
        that an operator has marked as unpublished by hand.
        """
        self._floors.clear()
        self.new_streams_from = 1

    async def look(self, connection: asyncpg.Connection) -> None:
        """Take a look, as described above. The caller must not read the outbox at the same time."""
        (row,) = await connection.fetch(STATEMENTS["writers"])
        self.note_look(row["last_seq"], row["writers"])
