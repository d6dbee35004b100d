"""State machines as data: a mapping lists the legal moves, and every other move is refused.

In the database, a move is a compare-and-set: `UPDATE … WHERE id = … AND status IN (machine.sources(target))`. When this
UPDATE changes no row, another process has already changed the status, so read the row again and decide anew.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from chassis.errors import IllegalTransition


class StateMachine[S: StrEnum]:
    """Legal moves: `moves` maps each state to the states that may follow. A state that is not in `moves` is final."""

    def __init__(self, name: str, moves: Mapping[S, Iterable[S]]) -> None:
        self.name = name
        self.moves = {source: frozenset(targets) for source, targets in moves.items()}

    def sources(self, target: S) -> frozenset[S]:
        """The states that `target` may follow directly."""
        return frozenset(source for source, targets in self.moves.items() if target in targets)

    def is_final(self, state: S) -> bool:
        return not self.moves.get(state)

    def check(self, source: S, target: S) -> None:
        """Raise `IllegalTransition` unless `target` may follow `source` directly."""
        if target not in self.moves.get(source, ()):
            raise IllegalTransition(self.name, source, target)
