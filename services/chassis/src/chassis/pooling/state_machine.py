"""State machines as data: a mapping lists the legal moves, and every other move is refused.

A move in the database is a compare-and-set: `UPDATE … WHERE id = … AND status IN (machine.sources(target))`. When no
row matches, another process has already changed the status: read the row again and decide anew.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from chassis.errors import IllegalTransition


class StateMachine[S: StrEnum]:
    """`moves` maps each state to those that may follow it; a state without an entry is final."""

    def __init__(self, name: str, moves: Mapping[S, Iterable[S]]) -> None:
        self.name = name
        self.moves = {source: frozenset(targets) for source, targets in moves.items()}

    def sources(self, target: S) -> frozenset[S]:
        """The states from which `target` may be reached."""
        return frozenset(source for source, targets in self.moves.items() if target in targets)

    def is_final(self, state: S) -> bool:
        return not self.moves.get(state)

    def check(self, source: S, target: S) -> None:
        """Raise `IllegalTransition` unless `source` may be followed by `target`."""
        if target not in self.moves.get(source, ()):
            raise IllegalTransition(self.name, source, target)
