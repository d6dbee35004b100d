"""The `seq` from which the relay reads each stream's unpublished events.

An event that is published leaves a dead entry in the index of the unpublished events. Vacuum removes such entries, but
not while a transaction is open that is older than them. If the relay read the index from its start, it would step over
the entries of all events that were published since. So the relay reads from a floor, below which no event waits.

An event gets its `seq` before its transaction commits. So an event may become visible below the `seq` of published
events, and the floor must not pass it: the next event of the same aggregate would be published first. While a
transaction writes to the outbox, it holds a lock on the table, from before it gets a `seq` until it ends. The relay
looks at these locks. Once all transactions have ended that held the lock at one look, each event up to the last `seq`
of that look is visible, and the floor may pass it.
"""

from collections.abc import Collection, Iterable, Sequence

import asyncpg

from chassis.events.outbox import STATEMENTS


class Floors:
    """The floor of each stream of one outbox, in the memory of the relay that leads."""

    def __init__(self) -> None:
        self._floors: dict[str, int] = {}
        self._settled = 0
        self._last_look: tuple[int, frozenset[str]] = 0, frozenset()

    @property
    def lowest(self) -> int:
        """The floor below which no event of any stream waits."""
        return min(self._floors.values(), default=0)

    def of(self, stream: str) -> int:
        """The floor of a stream: 0 until the relay has read the stream."""
        return self._floors.get(stream, 0)

    def note_streams(self, streams: Iterable[str]) -> None:
        """Note which streams exist. A new stream has the floor 0, and so has the outbox until the stream is read."""
        for stream in streams:
            self._floors.setdefault(stream, 0)

    def note_batch(self, stream: str, seqs: Sequence[int], *, published: int) -> None:
        """Note a batch that was read from the stream's floor: the first `published` of these events are marked."""
        following = self._settled + 1
        if seqs:
            following = min(following, [*seqs, seqs[-1] + 1][published])
        self._floors[stream] = following

    def note_look(self, last_seq: int, writers: Collection[str]) -> None:
        """Note the outbox's last visible `seq`, and the transactions that have written to the outbox and not ended."""
        seq, before = self._last_look
        if before.isdisjoint(writers):
            self._settled, self._last_look = seq, (last_seq, frozenset(writers))
        else:
            self._last_look = seq, before.intersection(writers)

    def forget(self) -> None:
        """Read each stream from its start once, in case an operator has changed rows by hand."""
        self._floors.clear()

    async def look(self, connection: asyncpg.Connection) -> None:
        """Look at the outbox's locks. The caller must not read the outbox at the same time."""
        (row,) = await connection.fetch(STATEMENTS["writers"])
        self.note_look(row["last_seq"], row["writers"])
